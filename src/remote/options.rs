//! What a caller may set about a remote: keys and endpoints as `AWS_*` settings, how long to wait, how often to try again.
//! Reads no environment and no file: whoever calls hands the settings in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How long a server may stay silent: long enough for a slow listing, short enough to be told within a minute that it is dead.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_RETRIES: usize = 8;
/// No further attempt starts after this: with one more silence on top, a dead server is given up in well under a minute.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings for [`Remote::from_url`](crate::Remote::from_url): credentials, endpoint, timeouts, retries.
///
/// Settings are named as the environment variables of the AWS tools are: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP` and so on, as the `object_store` crate knows them;
/// those that it does not know (`AWS_PROFILE`, `AWS_CA_BUNDLE`, …) have no effect. The library reads no environment itself:
///
/// ```
/// # let environment = vec![("AWS_REGION".to_owned(), "eu-west-1".to_owned()), ("HOME".to_owned(), "/root".to_owned())];
/// let options = zvon::RemoteOptions::from_vars(environment).max_retries(3);
/// # assert_eq!(format!("{options:?}").contains("HOME"), false);
/// ```
///
/// Without keys, roles are used where the settings say so: a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`), a
/// container's (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, or `…_FULL_URI` and `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`). The role
/// of an EC2 instance is asked for only on request, [`instance_metadata`](Self::instance_metadata) or the setting
/// `AWS_EC2_METADATA_DISABLED=false`, because elsewhere the question is answered by a long silence.
#[derive(Clone, Default)]
pub struct RemoteOptions {
    settings: BTreeMap<String, String>,
    request_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    max_retries: Option<usize>,
    retry_timeout: Option<Duration>,
    instance_metadata: bool,
}

impl RemoteOptions {
    /// Takes the settings whose names begin with `AWS_` out of an environment's variables, and leaves the rest.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        vars.into_iter().fold(Self::default(), |options, (key, value)| options.setting(key, value))
    }

    /// Sets one `AWS_*` setting. An empty value unsets it, as it does in a shell; other names are left out.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let (key, value) = (key.into().to_ascii_uppercase(), value.into());
        if value.is_empty() {
            self.settings.remove(&key);
        } else if key.starts_with("AWS_") {
            self.settings.insert(key, value);
        }
        self
    }

    /// How long a server may stay silent before an attempt counts as failed (20 s unless set). A large upload is given
    /// more, in proportion to its size.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// How long a connection may take to be made (5 s unless set).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How often a failed request is tried again (8 times unless set).
    #[must_use]
    pub fn max_retries(mut self, retries: usize) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// How long after its first attempt a request may still be tried again (30 s unless set).
    #[must_use]
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = Some(timeout);
        self
    }

    /// Whether to ask the instance metadata service (169.254.169.254) for a role when there are no keys.
    #[must_use]
    pub fn instance_metadata(mut self, ask: bool) -> Self {
        self.instance_metadata = ask;
        self
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    pub(super) fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The endpoint that the settings name, the one for S3 alone before the general one, and the setting that names it.
    pub(super) fn endpoint(&self) -> Option<(&'static str, &str)> {
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .into_iter()
            .find_map(|key| Some((key, self.get(key)?)))
    }

    /// Whether a setting is set to one of the words for yes.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.is_one_of(key, ["1", "true", "on", "yes", "y"])
    }

    pub(super) fn may_ask_instance(&self) -> bool {
        self.instance_metadata || self.is_one_of("AWS_EC2_METADATA_DISABLED", ["0", "false", "off", "no", "n"])
    }

    fn is_one_of(&self, key: &str, words: [&str; 5]) -> bool {
        self.get(key).is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
    }

    pub(super) fn silence(&self) -> Duration {
        self.request_timeout.unwrap_or(REQUEST_TIMEOUT)
    }

    pub(super) fn connect_within(&self) -> Duration {
        self.connect_timeout.unwrap_or(CONNECT_TIMEOUT)
    }

    pub(super) fn retries(&self) -> usize {
        self.max_retries.unwrap_or(MAX_RETRIES)
    }

    pub(super) fn retry_within(&self) -> Duration {
        self.retry_timeout.unwrap_or(RETRY_TIMEOUT)
    }
}

impl fmt::Debug for RemoteOptions {
    /// Names the settings and shows no value: some are secret, and which ones is not for a debugger to guess.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("settings", &self.settings.keys())
            .field("request_timeout", &self.silence())
            .field("connect_timeout", &self.connect_within())
            .field("max_retries", &self.retries())
            .field("retry_timeout", &self.retry_within())
            .field("instance_metadata", &self.instance_metadata)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> RemoteOptions {
        RemoteOptions::from_vars(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn only_aws_settings_are_taken_and_empty_ones_are_unset() {
        let options = vars(&[("TOKEN", "x"), ("REGION", "x"), ("AWS_REGION", "eu"), ("AWS_SESSION_TOKEN", "")]);
        assert_eq!(options.settings().collect::<Vec<_>>(), [("AWS_REGION", "eu")]);
    }

    #[test]
    fn the_endpoint_for_s3_alone_wins() {
        let options = vars(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://b")]);
        assert_eq!(options.endpoint(), Some(("AWS_ENDPOINT_URL_S3", "http://b")));
        assert_eq!(vars(&[("AWS_ENDPOINT_URL", "")]).endpoint(), None);
    }

    #[test]
    fn debug_shows_no_value() {
        let text = format!("{:?}", vars(&[("AWS_SECRET_ACCESS_KEY", "hunter2")]));
        assert!(text.contains("AWS_SECRET_ACCESS_KEY") && !text.contains("hunter2"), "{text}");
    }
}
