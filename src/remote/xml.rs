//! The little of S3's XML that `object_store` leaves to us: the code and message of an error, and listings from which
//! keys that it cannot represent are taken out, as one of them would end the whole listing. Works on text, parses no tree.

use std::borrow::Cow;

use object_store::path::Path;

/// So many comments may stand before a listing.
const MAX_COMMENTS: usize = 4;

/// The text of the first element of a name.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// Whether a document is a listing, by its outermost element.
pub(super) fn is_listing(page: &[u8]) -> bool {
    let Ok(page) = std::str::from_utf8(page) else { return false };
    let mut rest = page.trim_start_matches('\u{feff}').trim_start();
    for (open, close) in [("<?xml", "?>")].into_iter().chain(std::iter::repeat_n(("<!--", "-->"), MAX_COMMENTS)) {
        if rest.starts_with(open) {
            let Some((_, after)) = rest.split_once(close) else { return false };
            rest = after.trim_start();
        }
    }
    let Some(element) = rest.strip_prefix('<') else { return false };
    let end = element.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).unwrap_or(element.len());
    let name = element[..end].rsplit(':').next();
    name == Some("ListBucketResult")
}

/// A page of a listing without the entries whose key is no path (`a//b`, `../a`, a control character). Such a key is never
/// one of ours, and whatever is not understood here is left as it is for the real parser to judge.
pub(super) fn without_odd_keys(page: &str) -> Cow<'_, str> {
    const OPEN: &str = "<Contents>";
    const CLOSE: &str = "</Contents>";
    let mut kept = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(start) = page[at..].find(OPEN).map(|i| at + i) {
        let Some(end) = page[start..].find(CLOSE).map(|i| start + i + CLOSE.len()) else { break };
        if element(&page[start..end], "Key").is_some_and(is_odd) {
            kept.push_str(&page[copied..start]);
            copied = end;
        }
        at = end;
    }
    if copied == 0 {
        return Cow::Borrowed(page);
    }
    kept.push_str(&page[copied..]);
    Cow::Owned(kept)
}

fn is_odd(key: &str) -> bool {
    unescape(key).is_none_or(|key| Path::parse(key).is_err())
}

/// Text with its character references resolved, or nothing where one is unknown or names no character.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        let (name, tail) = after.split_once(';')?;
        plain.push_str(before);
        plain.push(character(name)?);
        rest = tail;
    }
    plain.push_str(rest);
    Some(plain)
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str]) -> String {
        let entries: String =
            keys.iter().map(|k| format!("<Contents><Key>{k}</Key><Size>1</Size></Contents>")).collect();
        format!("<ListBucketResult>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>")
    }

    #[test]
    fn a_page_of_plain_keys_is_left_alone() {
        for keys in [&[][..], &["a/b"], &["a&amp;b", "it&#39;s", "é"]] {
            let page = page(keys);
            assert!(matches!(without_odd_keys(&page), Cow::Borrowed(_)), "{page}");
        }
    }

    #[test]
    fn odd_keys_go_and_the_rest_stays() {
        let odd = ["a//b", "a/../b", "bell&#7;", "bell&#x7;", "a\nb", "&unknown;", "&#xD800;", "&"];
        let mut keys = vec!["first"];
        for key in odd {
            keys.extend([key, "next"]);
        }
        let left: Vec<_> = keys.iter().copied().filter(|k| !odd.contains(k)).collect();
        assert_eq!(without_odd_keys(&page(&keys)), page(&left));
    }

    #[test]
    fn torn_pages_are_left_to_the_parser() {
        for page in ["", "<Contents>", "<Contents><Key>a//b</Key>", "<Contents></Contents>", "nonsense"] {
            assert_eq!(without_odd_keys(page), page);
        }
    }

    #[test]
    fn elements_are_found() {
        let xml = "<Error><Code>NoSuchBucket</Code><Message>it&apos;s gone</Message></Error>";
        assert_eq!(element(xml, "Code"), Some("NoSuchBucket"));
        assert_eq!(element(xml, "Message").and_then(unescape).as_deref(), Some("it's gone"));
        assert_eq!(element(xml, "Region"), None);
    }
}
