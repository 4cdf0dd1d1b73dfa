//! What must hold of the URL of a remote, whatever the text is. For the fuzz targets and their tests alone.

use super::location::{Location, parse, text};

/// What stands before every `@` of a fuzzed URL: no part of it may show up in anything that is remembered, shown or logged.
const PASSWORD: &str = "hunter2";

/// A URL, and after a line break the setting that names a server: a place or an error, neither with a password in it, and the
/// text by which the place is remembered means the same place.
pub fn remote_url(data: &[u8]) {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let marked = data.replace('@', &format!("{PASSWORD}@"));
    let (url, endpoint) = marked.split_once('\n').map_or((marked.as_str(), None), |(url, rest)| (url, Some(rest)));
    let setting = endpoint.map(|value| ("AWS_ENDPOINT_URL", value));
    match parse(url, setting) {
        Ok(place) => check_place(data, &place, setting),
        Err(error) if url.contains("://") && !is_path(url) => assert_silent(data, &format!("{error} {error:?}")),
        Err(_) => {}
    }
}

fn check_place(data: &str, place: &Location, setting: Option<(&str, &str)>) {
    let remembered = match place {
        Location::Folder(path) => return assert!(!path.as_os_str().is_empty()),
        Location::Memory { name, base } => text("memory", name, base),
        Location::S3(bucket) => {
            assert_silent(data, &format!("{} {}", bucket.doubt(), bucket.server()));
            bucket.url()
        }
    };
    assert_silent(data, &format!("{remembered} {place:?}"));
    assert!(!remembered.contains(char::is_control), "{remembered:?}");
    assert_eq!(&parse(&remembered, setting).expect("what is remembered is a URL"), place, "{remembered}");
}

/// What is said holds no password, unless the data itself spells the word: the engine learns it from the comparisons.
fn assert_silent(data: &str, said: &str) {
    let letters = data.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let may_spell_it = letters.contains(PASSWORD) || data.contains('%') || !data.is_ascii();
    assert!(may_spell_it || !said.contains(PASSWORD), "{said}");
}

/// Whether an error may repeat the text, as that of a path.
fn is_path(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.contains('/'))
}
