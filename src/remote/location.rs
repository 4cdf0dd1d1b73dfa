//! A remote's URL read: which store, which place in it, and the one text by which that place is remembered. Pure: touches
//! neither disk nor network. No message repeats a part of a URL in which a password may stand.

use std::net::IpAddr;
use std::path::PathBuf;

use object_store::path::Path;
use url::{Host, Url};

use crate::error::{Error, Result};

/// Where a URL points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// A folder, by an absolute path or one relative to the current directory.
    Folder(PathBuf),
    /// A store in this process's memory, shared by name.
    Memory { name: String, base: Path },
    /// A bucket of a server that speaks S3.
    S3(Bucket),
}

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// The server, where the URL or a setting names one: AWS otherwise.
    pub(super) endpoint: Option<Url>,
    /// The endpoint as the URL names it, `host[:port]`, if it does.
    named: Option<String>,
    pub(super) name: String,
    pub(super) base: Path,
}

impl Bucket {
    /// The place as text, in the form in which it was given.
    pub(super) fn url(&self) -> String {
        match &self.named {
            Some(named) => text("s3", &format!("{named}/{}", self.name), &self.base),
            None => text("s3", &self.name, &self.base),
        }
    }

    /// A dot alone is a weak sign of a server: buckets have dots too.
    pub(super) fn doubt(&self) -> String {
        match &self.named {
            Some(named) if !named.contains([':', '[']) && named != "localhost" => {
                format!(" (if {named} is a bucket, set AWS_ENDPOINT_URL to its server)")
            }
            _ => String::new(),
        }
    }

    /// The server as a reader of an error wants to see it.
    pub(super) fn server(&self) -> String {
        self.endpoint.as_ref().map_or_else(|| "AWS".to_owned(), |endpoint| endpoint.authority().to_owned())
    }
}

/// `scheme://root/base`, every odd character of the base percent-encoded: one place, one text.
pub(super) fn text(scheme: &str, root: &str, base: &Path) -> String {
    let mut text = format!("{scheme}://{root}");
    if let Ok(mut url) = Url::parse("none://none") {
        // The path setters of a URL that has a host cannot fail, and encode as its parser does.
        url.set_path(&base.as_ref().replace('%', "%25").replace('?', "%3F").replace('#', "%23"));
        if !base.is_root() {
            // The one character that a path may have and the text of a remote may not.
            text.push_str(&url.path().replace('@', "%40"));
        }
    }
    text
}

/// Reads a URL or a plain path. `endpoint` is the setting that names a server, and its value.
pub(super) fn parse(url: &str, endpoint: Option<(&str, &str)>) -> Result<Location> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return plain_path(url);
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "file" {
        return file(rest);
    }
    refuse_credentials(rest)?;
    match scheme.as_str() {
        "memory" => memory(rest),
        "s3" => s3(rest, endpoint),
        _ => Err(unsupported(&scheme)),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn unsupported(scheme: &str) -> Error {
    let hint = match scheme {
        "gs" | "az" | "azure" | "adl" | "abfs" | "abfss" => "",
        "http" | "https" => "; a server that speaks S3 is written s3://host/bucket/path",
        "s3a" | "s3n" => "; write s3://",
        _ => return Error::usage(format!("unknown kind of remote {scheme}://: {SUPPORTED}")),
    };
    Error::usage(format!("{scheme}:// remotes are not supported in this build: {SUPPORTED}{hint}"))
}

const SUPPORTED: &str =
    "give a folder's path, file:///path, s3://bucket/path, s3://host:port/bucket/path or memory://name";

/// An `@` means a password more often than not, and a URL is remembered and shown: nothing of it is repeated here.
fn refuse_credentials(rest: &str) -> Result<()> {
    if rest.contains('@') {
        return Err(Error::usage(
            "a remote's URL must not hold a user name or a password (an @ in a path is written %40); \
             set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        ));
    }
    Ok(())
}

fn plain_path(path: &str) -> Result<Location> {
    if path.is_empty() {
        return Err(Error::usage(format!("the remote's URL is empty: {SUPPORTED}")));
    }
    if path == "~" || path.starts_with("~/") {
        return Err(Error::usage(format!("{path}: ~ is not expanded here; write out the path of the home folder")));
    }
    let scheme = path.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    if let Some(scheme @ ("file" | "s3" | "memory")) = scheme.as_deref() {
        return Err(Error::usage(format!("{scheme}: must be followed by //: {SUPPORTED}")));
    }
    Ok(Location::Folder(PathBuf::from(path)))
}

fn file(rest: &str) -> Result<Location> {
    let slashes = "a file URL has three slashes and a whole path, file:///path; a path relative to here is written without file://";
    if rest.contains(['?', '#']) {
        return Err(Error::usage("a file URL has ? written as %3F and # as %23; or give the plain path"));
    }
    if rest.contains('\\') {
        return Err(Error::usage(slashes));
    }
    let url = Url::parse(&format!("file://{rest}")).map_err(|_| Error::usage(slashes))?;
    let path = url.to_file_path().ok().filter(|_| rest.starts_with('/') || rest.starts_with("localhost/"));
    path.map(Location::Folder).ok_or_else(|| Error::usage(slashes))
}

fn memory(rest: &str) -> Result<Location> {
    let url = split("memory", rest)?;
    match (url.host_str(), url.port()) {
        (Some(name), None) if !name.is_empty() => {
            Ok(Location::Memory { name: name.to_owned(), base: base(url.path())? })
        }
        _ => Err(Error::usage("a memory URL needs a name, and no port: memory://name/path")),
    }
}

fn s3(rest: &str, setting: Option<(&str, &str)>) -> Result<Location> {
    let url = split("s3", rest)?;
    let host = url.host_str().unwrap_or_default();
    let set = setting.map(|(key, value)| parse_endpoint(key, value)).transpose()?;
    let bucket = match &set {
        Some(set) if names_same_server(&url, set) => within_server(&url, set.clone())?,
        Some(_) if url.port().is_some() => {
            let key = setting.map_or("AWS_ENDPOINT_URL", |(key, _)| key);
            return Err(Error::usage(format!(
                "the URL names the server {}, and {key} another: unset one",
                url.authority()
            )));
        }
        Some(_) => Bucket { endpoint: set, named: None, name: bucket_name(host)?, base: base(url.path())? },
        None if is_server(&url) => {
            let endpoint = endpoint_of(&url)?;
            within_server(&url, endpoint)?
        }
        None => Bucket { endpoint: None, named: None, name: bucket_name(host)?, base: base(url.path())? },
    };
    Ok(Location::S3(bucket))
}

/// A URL for its host, port and path alone.
fn split(scheme: &str, rest: &str) -> Result<Url> {
    if rest.contains(['?', '#']) {
        return Err(Error::usage(format!("a {scheme} URL ends with its path: ? is written as %3F and # as %23")));
    }
    // An empty segment would be dropped or refused further down, by each store in its own way.
    if rest.contains("//") {
        return Err(Error::usage(format!("{scheme}://{rest} has an empty part in its path")));
    }
    Url::parse(&format!("{scheme}://{rest}"))
        .map_err(|e| Error::usage(format!("{scheme}://{rest} is not a URL")).caused_by(e))
}

/// Whether the first part of an S3 URL is a server: a bucket's name has no port, and where no setting names a server a
/// dot or `localhost` means one.
fn is_server(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    url.port().is_some() || host.contains(['.', '[']) || host.eq_ignore_ascii_case("localhost")
}

/// Whether the URL names the server that a setting names too: the setting then says how to speak to it.
fn names_same_server(url: &Url, endpoint: &Url) -> bool {
    let same_host = url.host_str().zip(endpoint.host_str()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
    is_server(url) && same_host && url.port() == endpoint.port()
}

fn endpoint_of(url: &Url) -> Result<Url> {
    let authority = url.authority().to_ascii_lowercase();
    let plain = Url::parse(&format!("http://{authority}"))
        .map_err(|e| Error::usage(format!("{authority} is not the name of a server")).caused_by(e))?;
    if is_loopback(&plain) {
        return Ok(plain);
    }
    Url::parse(&format!("https://{authority}"))
        .map_err(|e| Error::usage(format!("{authority} is not the name of a server")).caused_by(e))
}

fn within_server(url: &Url, endpoint: Url) -> Result<Bucket> {
    let path = url.path().trim_start_matches('/');
    let (bucket, rest) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        let server = url.authority();
        return Err(Error::usage(format!(
            "s3://{server} names a server and no bucket: write s3://{server}/bucket/path \
             (if {server} is a bucket with a dot in its name, set AWS_ENDPOINT_URL too)"
        )));
    }
    Ok(Bucket {
        named: Some(url.authority().to_ascii_lowercase()),
        endpoint: Some(endpoint),
        name: bucket_name(bucket)?,
        base: base(rest)?,
    })
}

fn bucket_name(name: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() {
        return Err(Error::usage("the URL names no bucket: write s3://bucket/path"));
    }
    if !name.bytes().all(plain) || name.starts_with('.') {
        return Err(Error::usage(format!("{name} is not the name of a bucket")));
    }
    Ok(name.to_owned())
}

/// A base path as a caller spells it.
pub(super) fn path(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|e| Error::usage(format!("{path} cannot be a path of a remote")).caused_by(e))
}

/// The path of a URL as the keys of a store spell it.
fn base(path: &str) -> Result<Path> {
    Path::from_url_path(path).map_err(|e| Error::usage(format!("{path} cannot be a path of a remote")).caused_by(e))
}

/// Reads the value of a setting that names a server.
fn parse_endpoint(key: &str, value: &str) -> Result<Url> {
    let wrong = || Error::usage(format!("{key} must be a URL such as https://host or http://localhost:9000"));
    // A key with a slash in it would be read as the server's path.
    if value.contains('@') {
        return Err(Error::usage(format!("{key} must not hold a user name or a password")));
    }
    let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    Ok(url)
}

/// Whether a server is this machine, whose traffic nobody else can read.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const ENV: Option<(&str, &str)> = Some(("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"));

    /// Endpoint, bucket, base, canonical text.
    fn bucket(url: &str, endpoint: Option<(&str, &str)>) -> (Option<String>, String, String, String) {
        match parse(url, endpoint).unwrap_or_else(|e| panic!("{url}: {e}")) {
            Location::S3(b) => (b.endpoint.as_ref().map(Url::to_string), b.name.clone(), b.base.to_string(), b.url()),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn both_forms_of_s3_urls() {
        let table = [
            ("s3://b/p/q", None, None, "b", "p/q", "s3://b/p/q"),
            ("S3://b", None, None, "b", "", "s3://b"),
            ("s3://b/", None, None, "b", "", "s3://b"),
            ("s3://b/p/", None, None, "b", "p", "s3://b/p"),
            ("s3://b/a b/%C3%A9", None, None, "b", "a b/é", "s3://b/a%20b/%C3%A9"),
            ("s3://b/a%2523", None, None, "b", "a%23", "s3://b/a%2523"),
            ("s3://b/me%40home", None, None, "b", "me@home", "s3://b/me%40home"),
            ("s3://My_Bucket/p", None, None, "My_Bucket", "p", "s3://My_Bucket/p"),
            ("s3://b/p", ENV, Some("http://127.0.0.1:9000/"), "b", "p", "s3://b/p"),
            ("s3://my.bucket/p", ENV, Some("http://127.0.0.1:9000/"), "my.bucket", "p", "s3://my.bucket/p"),
            ("s3://localhost/b/p", None, Some("http://localhost/"), "b", "p", "s3://localhost/b/p"),
            ("s3://localhost:9000/b", None, Some("http://localhost:9000/"), "b", "", "s3://localhost:9000/b"),
            ("s3://127.0.0.1:9000/b/p", None, Some("http://127.0.0.1:9000/"), "b", "p", "s3://127.0.0.1:9000/b/p"),
            ("s3://127.0.0.1:9000/b/p", ENV, Some("http://127.0.0.1:9000/"), "b", "p", "s3://127.0.0.1:9000/b/p"),
            ("s3://[::1]:9000/b", None, Some("http://[::1]:9000/"), "b", "", "s3://[::1]:9000/b"),
            ("s3://S3.example.com/b/p", None, Some("https://s3.example.com/"), "b", "p", "s3://s3.example.com/b/p"),
            ("s3://minio:9000/b", None, Some("https://minio:9000/"), "b", "", "s3://minio:9000/b"),
        ];
        for (url, env, endpoint, name, base, text) in table {
            let want = (endpoint.map(str::to_owned), name.to_owned(), base.to_owned(), text.to_owned());
            assert_eq!(bucket(url, env), want, "{url}");
            assert_eq!(bucket(text, env), want, "the text of {url} means the same place");
        }
    }

    #[test]
    fn folders_and_memory() {
        for (url, path) in [
            ("file:///a/b", "/a/b"),
            ("FILE:///a/b", "/a/b"),
            ("file://localhost/a", "/a"),
            ("file:///a%20b/c%23", "/a b/c#"),
            ("/a/b", "/a/b"),
            ("rel/x", "rel/x"),
            ("./s3:x", "./s3:x"),
            ("C:\\x", "C:\\x"),
            ("me@home", "me@home"),
        ] {
            assert_eq!(parse(url, None).unwrap(), Location::Folder(path.into()), "{url}");
        }
        for (url, name, base) in [("memory://a", "a", ""), ("memory://a/", "a", ""), ("memory://a/b/c", "a", "b/c")] {
            let want = Location::Memory { name: name.to_owned(), base: Path::from(base) };
            assert_eq!(parse(url, None).unwrap(), want, "{url}");
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        for (url, env, words) in [
            ("", None, "empty"),
            ("~/x", None, "not expanded"),
            ("file:x", None, "followed by //"),
            ("s3:b/p", None, "followed by //"),
            ("memory:", None, "followed by //"),
            ("file://rel/x", None, "three slashes"),
            ("file://", None, "three slashes"),
            ("file:///a#b", None, "%23"),
            ("memory://", None, "needs a name"),
            ("memory:///x", None, "needs a name"),
            ("memory://a:1", None, "no port"),
            ("s3://", None, "names no bucket"),
            ("s3:///p", None, "names no bucket"),
            ("s3://b/a//b", None, "empty part"),
            ("s3://b/p?x=y", None, "%3F"),
            ("s3://b*/p", None, "not the name of a bucket"),
            ("s3://b/%00", None, "cannot be a path"),
            ("s3://b/a%2F..%2Fc", None, "cannot be a path"),
            ("s3://localhost:9000", None, "no bucket"),
            ("s3://my.bucket", None, "a bucket with a dot"),
            ("s3://localhost:9001/b", ENV, "unset one"),
            ("s3://b/p", Some(("AWS_ENDPOINT", "localhost:9000")), "AWS_ENDPOINT must be a URL"),
            ("s3://b/p", Some(("AWS_ENDPOINT_URL", "nonsense")), "AWS_ENDPOINT_URL must be a URL"),
            ("gs://b/p", None, "not supported in this build"),
            ("az://b/p", None, "not supported in this build"),
            ("https://h/p", None, "s3://host/bucket/path"),
            ("ftp://h/p", None, "unknown kind of remote"),
        ] {
            let error = parse(url, env).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
            assert!(error.to_string().contains(words), "{url}: {error}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        let endpoint = Some(("AWS_ENDPOINT_URL", "http://key:hunter2@localhost:9000"));
        let with_a_slash = Some(("AWS_ENDPOINT_URL", "http://key/hunter2@localhost:9000"));
        for (url, env) in [
            ("s3://key:hunter2@host/b", None),
            ("s3://key:hunt/er2@host/b", None),
            ("s3://key:12hunter2@host:99999/b", None),
            ("https://key:hunter2@host/b", None),
            ("file://key:hunter2@host/b", None),
            ("memory://hunter2@x", None),
            ("s3://b/p", endpoint),
            ("s3://b/p", with_a_slash),
        ] {
            let error = parse(url, env).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Usage, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunt"), "{url}: {error:?}");
        }
    }
}
