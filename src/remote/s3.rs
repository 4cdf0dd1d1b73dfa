//! From a bucket and the caller's options to a client that speaks S3; what cannot work is said before anything is sent.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use url::Url;

use super::failure::Speaker;
use super::http::Connector;
use super::location::{Bucket, is_loopback};
use super::options::RemoteOptions;
use super::traffic::Counters;
use crate::error::{Error, ErrorKind, Result};

/// Settings whose values may never be shown. A proxy's URL may hold a password.
const SECRET: [&str; 8] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_TOKEN",
    "AWS_PROXY_URL",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN",
];

/// Settings that are read here, and would only contradict what the URL says if they were handed on.
const OWN: [&str; 6] =
    ["AWS_BUCKET", "AWS_BUCKET_NAME", "AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"];

/// Makes a client for a bucket; nothing is sent yet.
pub(super) fn build(bucket: &Bucket, options: &RemoteOptions, counters: Arc<Counters>) -> Result<AmazonS3> {
    check_credentials(bucket, options)?;
    let allow_http = allow_http(bucket, options)?;
    let connector = Connector {
        counters,
        host: bucket.endpoint.as_ref().and_then(Url::host_str).map(str::to_owned),
        silence: options.silence(),
    };
    let mut builder = AmazonS3Builder::new().with_client_options(client_options(options));
    for (key, value) in options.settings().filter(|(key, _)| !OWN.contains(key)) {
        if let Ok(key) = key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    builder
        .with_bucket_name(&bucket.name)
        .with_allow_http(allow_http)
        .with_retry(retry_config(options))
        .with_http_connector(connector)
        .build()
        .map_err(|e| {
            let cause = speaker(bucket, options).tame(&e.to_string());
            Error::usage(format!("the settings for {} do not fit together: {cause}", bucket.url()))
        })
}

/// Who explains the failures of a bucket.
pub(super) fn speaker(bucket: &Bucket, options: &RemoteOptions) -> Speaker {
    Speaker {
        server: bucket.server(),
        bucket: format!("bucket {}", bucket.name),
        doubt: bucket.doubt(),
        secrets: SECRET.iter().filter_map(|key| options.get(key)).map(str::to_owned).collect(),
    }
}

/// No limit on a whole request: how long a large object takes says nothing about the server. The connector watches for silence.
fn client_options(options: &RemoteOptions) -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(options.connect_within())
}

fn retry_config(options: &RemoteOptions) -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: std::time::Duration::from_secs(5), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: options.retries(), retry_timeout: options.retry_within() }
}

/// A bucket over plain http shows everyone on the way what is in it: fine on this machine, elsewhere only if asked for.
fn allow_http(bucket: &Bucket, options: &RemoteOptions) -> Result<bool> {
    let Some(plain) = bucket.endpoint.as_ref().filter(|endpoint| endpoint.scheme() == "http") else { return Ok(false) };
    if is_loopback(plain) || options.is_on("AWS_ALLOW_HTTP") {
        return Ok(true);
    }
    Err(Error::usage(format!(
        "the endpoint {} speaks unencrypted http: use https, or set AWS_ALLOW_HTTP=true if the network is trusted",
        plain.authority()
    )))
}

/// Without keys or a role, `object_store` would ask an instance metadata service that most machines do not have, and wait for it.
fn check_credentials(bucket: &Bucket, options: &RemoteOptions) -> Result<()> {
    let key = options.get("AWS_ACCESS_KEY_ID");
    let secret = options.get("AWS_SECRET_ACCESS_KEY");
    if options.is_on("AWS_SKIP_SIGNATURE") {
        return Ok(());
    }
    match (key, secret) {
        (Some(_), Some(_)) => check_spelling(options),
        (Some(_), None) => Err(Error::usage("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not: set both")),
        (None, Some(_)) => Err(Error::usage("AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not: set both")),
        (None, None) => check_roles(bucket, options),
    }
}

/// A key goes into a header: a line break pasted along with it would end in a panic there.
fn check_spelling(options: &RemoteOptions) -> Result<()> {
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        if options.get(name).is_some_and(|value| !value.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::usage(format!(
                "{name} holds a blank, a line break or another character that no key has"
            )));
        }
    }
    Ok(())
}

fn check_roles(bucket: &Bucket, options: &RemoteOptions) -> Result<()> {
    let both = |a: &str, b: &str| {
        if options.has(b) { Ok(()) } else { Err(Error::usage(format!("{a} is set and {b} is not: set both"))) }
    };
    if options.has("AWS_WEB_IDENTITY_TOKEN_FILE") {
        return both("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN");
    }
    if options.has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(());
    }
    if options.has("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        return both("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    }
    if options.may_ask_instance() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Remote,
        format!(
            "no credentials for {}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, if it is not us-east-1). \
             The files in ~/.aws and AWS_PROFILE are not read; `aws configure export-credentials --format env` prints \
             them as variables. On an EC2 instance with a role set AWS_EC2_METADATA_DISABLED=false; for a public bucket \
             AWS_SKIP_SIGNATURE=true",
            bucket.url()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::location::{Location, parse};

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")];

    fn try_build(url: &str, settings: &[(&str, &str)]) -> Result<AmazonS3> {
        let options = settings.iter().fold(RemoteOptions::default(), |options, (k, v)| options.setting(*k, *v));
        let Location::S3(bucket) = parse(url, options.endpoint())? else { panic!("{url}") };
        build(&bucket, &options, Arc::default())
    }

    fn with_keys<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&KEYS[..], more].concat()
    }

    #[test]
    fn what_can_work_is_built() {
        for (url, settings) in [
            ("s3://b/p", with_keys(&[])),
            ("s3://b/p", with_keys(&[("AWS_CA_BUNDLE", "/nowhere/ca.pem"), ("AWS_PROFILE", "x"), ("AWS_BUCKET", "y")])),
            ("s3://b/p", with_keys(&[("AWS_ENDPOINT_URL", "http://host:1"), ("AWS_ALLOW_HTTP", "true")])),
            ("s3://b/p", with_keys(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")])),
            ("s3://localhost:1/b", with_keys(&[])),
            ("s3://b", vec![("AWS_SKIP_SIGNATURE", "true")]),
            ("s3://b", vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")]),
            ("s3://b", vec![("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")]),
            ("s3://b", vec![("AWS_EC2_METADATA_DISABLED", "false")]),
        ] {
            try_build(url, &settings).unwrap_or_else(|e| panic!("{url} {settings:?}: {e}"));
        }
    }

    #[test]
    fn what_cannot_work_is_explained_before_anything_is_sent() {
        for (settings, words) in [
            (vec![], "~/.aws"),
            (vec![("AWS_EC2_METADATA_DISABLED", "true")], "AWS_ACCESS_KEY_ID"),
            (vec![KEYS[0]], "AWS_SECRET_ACCESS_KEY is not"),
            (vec![KEYS[1]], "AWS_ACCESS_KEY_ID is not"),
            (vec![KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "a\nb")], "AWS_SESSION_TOKEN holds"),
            (vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")], "AWS_ROLE_ARN is not"),
            (vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")], "TOKEN_FILE is not"),
            (with_keys(&[("AWS_ENDPOINT_URL", "http://host:1")]), "AWS_ALLOW_HTTP"),
            (with_keys(&[("AWS_ENDPOINT_URL", "http://host:1"), ("AWS_ALLOW_HTTP", "0")]), "AWS_ALLOW_HTTP"),
            (with_keys(&[("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "maybe")]), "boolean"),
        ] {
            let error = try_build("s3://b/p", &settings).map(|_| ()).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
