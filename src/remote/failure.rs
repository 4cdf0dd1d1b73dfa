//! From a store's error to a sentence that says what, where and what to do. Keeps nothing of the original but text from which
//! secrets, control characters and excess length are gone: a server's answer is not ours, and may hold anything.

use std::error::Error as StdError;
use std::fmt;

use object_store::client::{HttpError, HttpErrorKind};

use super::pages::Endless;
use super::xml;
use crate::error::{Error, ErrorKind};

/// The longest detail shown, in characters.
const MAX_DETAIL: usize = 300;
/// A shorter "secret" would be found in ordinary words.
const MIN_SECRET: usize = 8;

/// Who is asked, for the sentences, and what must not appear in them.
pub(super) struct Speaker {
    /// The server, as `host:port`.
    pub(super) server: String,
    /// The bucket, as a phrase: `bucket photos`.
    pub(super) bucket: String,
    /// What else may be wrong if the server cannot be reached.
    pub(super) doubt: String,
    pub(super) secrets: Vec<String>,
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speaker").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What a failed request comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Silent,
    Status(u16, String),
    Redirect,
    Endless(Endless),
    Other,
}

impl Speaker {
    /// Explains why something could not be done, `doing` being a phrase such as `list s3://bucket/path`.
    pub(super) fn explain(&self, doing: &str, error: &object_store::Error) -> Error {
        let text = error.to_string();
        let (kind, advice) = self.advice(&cause_of(error, &text));
        let message = match advice {
            Some(advice) => format!("cannot {doing}: {advice}"),
            None => format!("cannot {doing}"),
        };
        Error::new(kind, self.tame(&message)).caused_by(Detail(self.tame(&detail(error, &text))))
    }

    fn advice(&self, cause: &Cause) -> (ErrorKind, Option<String>) {
        let Self { server, bucket, doubt, .. } = self;
        let advice = match cause {
            Cause::Unreachable => {
                format!(
                    "{server} cannot be reached; check the address and the network, and that the server is running{doubt}"
                )
            }
            Cause::Silent => format!("{server} does not answer in time; check the network, or try again later"),
            Cause::Redirect => format!("{bucket} is in another region; set AWS_REGION to it"),
            Cause::Status(status, code) => return self.advice_on_status(*status, code),
            Cause::Endless(endless) => format!("{endless}; {}", endless.advice(server)),
            Cause::Other => return (ErrorKind::Remote, None),
        };
        (ErrorKind::Remote, Some(advice))
    }

    fn advice_on_status(&self, status: u16, code: &str) -> (ErrorKind, Option<String>) {
        let Self { server, bucket, .. } = self;
        let advice = match (status, code) {
            (_, "RequestTimeTooSkewed") => {
                return (
                    ErrorKind::Clock,
                    Some("this machine's clock differs too much from the server's: set it".into()),
                );
            }
            (_, "SignatureDoesNotMatch") => {
                format!("{server} says that the secret is not this key's; check AWS_SECRET_ACCESS_KEY")
            }
            (_, "InvalidAccessKeyId" | "NotSignedUp") => {
                format!("{server} does not know the key; check AWS_ACCESS_KEY_ID")
            }
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
                "the session's token is no longer valid; get new keys and AWS_SESSION_TOKEN".into()
            }
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
            | (301 | 307, _) => format!("{bucket} is in another region; set AWS_REGION to it"),
            (_, "NoSuchBucket") => format!("there is no {bucket} at {server}; create it, or correct the URL"),
            (_, "InvalidBucketName") => format!("{server} takes no such name for a bucket; correct the URL"),
            (401 | 403, _) => format!(
                "{server} refuses access; check the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and that they \
                 may list, read and write in {bucket}"
            ),
            (404, _) => format!("{server} has nothing there; check that {bucket} exists, and the URL"),
            (409 | 412, _) => {
                format!("{server} answers with status {status}, as if others wrote the same object; try again later")
            }
            (429, _) | (_, "SlowDown") => format!("{server} asks for fewer requests; try again later"),
            (500.., _) => format!("{server} fails with status {status}; try again later"),
            _ => format!("{server} answers with status {status}"),
        };
        (ErrorKind::Remote, Some(advice))
    }

    /// Text fit for a terminal and a log.
    pub(super) fn tame(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| secret.len() >= MIN_SECRET) {
            text = text.replace(secret.as_str(), "[secret]");
        }
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Whether a store's `NotFound` speaks of the bucket and not of the object.
pub(super) fn is_bucket_missing(error: &object_store::Error) -> bool {
    error.to_string().contains("<Code>NoSuchBucket</Code>")
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// A listing's error has no kind of its own and no typed status: both stand in its text alone.
fn cause_of(error: &object_store::Error, text: &str) -> Cause {
    if let Some(endless) = causes(error).find_map(|e| e.downcast_ref::<Endless>()) {
        return Cause::Endless(*endless);
    }
    if let Some(http) = causes(error).find_map(|e| e.downcast_ref::<HttpError>()) {
        return match http.kind() {
            HttpErrorKind::Connect => Cause::Unreachable,
            HttpErrorKind::Timeout => Cause::Silent,
            HttpErrorKind::Request | HttpErrorKind::Interrupted => Cause::Unreachable,
            _ => Cause::Other,
        };
    }
    if text.contains("redirect without LOCATION") {
        return Cause::Redirect;
    }
    let code = xml::element(text, "Code").unwrap_or_default().to_owned();
    match status_in(text) {
        Some(status) => Cause::Status(status, code),
        None if !code.is_empty() => Cause::Status(500, code),
        None => Cause::Other,
    }
}

fn status_in(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// What the store itself had to say, without what is wrapped around it.
fn detail(error: &object_store::Error, text: &str) -> String {
    let said = |name| xml::element(text, name).and_then(xml::unescape);
    let detail = match (status_in(text), said("Code"), said("Message")) {
        (Some(status), Some(code), Some(message)) => format!("{status} {code}: {message}"),
        (Some(status), Some(code), None) => format!("{status} {code}"),
        (Some(status), None, _) => format!("status {status}"),
        _ => causes(error).last().map(ToString::to_string).unwrap_or_default(),
    };
    detail.chars().take(MAX_DETAIL).collect()
}

/// The cause of an [`Error`], in the store's own words.
struct Detail(String);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Detail {}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker() -> Speaker {
        Speaker {
            server: "host:9000".into(),
            bucket: "bucket b".into(),
            doubt: String::new(),
            secrets: vec!["hunter2hunter2".into(), "b".into(), String::new()],
        }
    }

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn statuses_become_advice() {
        for (status, code, words) in [
            ("403 Forbidden", "AccessDenied", "may list, read and write in bucket b"),
            ("403 Forbidden", "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
            ("403 Forbidden", "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
            ("400 Bad Request", "ExpiredToken", "AWS_SESSION_TOKEN"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "set AWS_REGION"),
            ("404 Not Found", "NoSuchBucket", "no bucket b at host:9000"),
            ("503 Service Unavailable", "SlowDown", "fewer requests"),
            ("502 Bad Gateway", "", "status 502; try again later"),
            ("409 Conflict", "OperationAborted", "status 409, as if others wrote the same object; try again later"),
            ("418 I'm a teapot", "", "status 418"),
        ] {
            let body = if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code></Error>") };
            let error = generic(&format!("Server returned non-2xx status code: {status}: {body}"));
            let error = speaker().explain("list the remote", &error);
            assert_eq!(error.kind(), ErrorKind::Remote);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_skewed_clock_is_named() {
        let error = generic("status code: 403 Forbidden: <Error><Code>RequestTimeTooSkewed</Code></Error>");
        assert_eq!(speaker().explain("list the remote", &error).kind(), ErrorKind::Clock);
    }

    #[test]
    fn neither_a_secret_nor_a_control_character_passes() {
        let body =
            format!("<Error><Code>X</Code><Message>hunter2hunter2 \u{1b}[31m{}</Message></Error>", "x".repeat(9999));
        let error = speaker().explain("get hunter2hunter2", &generic(&format!("status code: 400 Bad: {body}")));
        let source = error.source().unwrap().to_string();
        let all = format!("{error} {error:?} {source}");
        assert!(!all.contains("hunter2") && !all.contains('\u{1b}'), "{all}");
        assert!(source.starts_with("400 X: [secret]") && source.len() < 2 * MAX_DETAIL, "{source}");
    }
}
