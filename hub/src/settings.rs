//! The settings of a fetch, which the binary reads from the environment.

use std::fmt;

use url::Url;

use refrain_engine::source::upstream::{has_password, is_allowed};

use crate::error::FetchError;

/// The settings of a fetch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address of the hub.
    pub endpoint: Url,
    /// The token that is sent to it.
    pub token: Option<Token>,
    /// The proxy for addresses outside of this machine.
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy; `.name` stands for all hosts below a name.
    pub no_proxy: Vec<String>,
    /// Limit on the bytes of a file.
    pub max_size: u64,
}

/// A token; it is never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token as somebody wrote it; an empty one is none.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    /// Returns the value of the header that carries it.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Returns a text without the token.
    pub(crate) fn hide(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Settings {
    /// Parses the address of a hub.
    ///
    /// # Errors
    /// [`FetchError::Endpoint`].
    pub fn endpoint(text: &str) -> Result<Url, FetchError> {
        let wrong = |reason: &str| FetchError::Endpoint { reason: reason.into() };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if has_password(&url) {
            return Err(wrong("it holds a password"));
        }
        if !is_allowed(&url) {
            return Err(wrong(
                "only `https://` is fetched, and `http://` from this machine itself",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has a query or a fragment"));
        }
        Ok(url)
    }

    /// Whether a host is reached without the proxy.
    pub(crate) fn is_direct(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.no_proxy.iter().map(|name| name.trim().to_ascii_lowercase()).any(|name| {
            let below = name.trim_start_matches('*').trim_start_matches('.');
            name == "*"
                || !below.is_empty() && (host == below || host.ends_with(&format!(".{below}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_proxy_are_matched_by_their_ends() {
        let settings = Settings {
            endpoint: Url::parse("https://hub").unwrap(),
            token: Token::new(" hunter2\n"),
            proxy: None,
            no_proxy: ["lab.org", ".intern", ""].map(String::from).to_vec(),
            max_size: 1,
        };
        for (host, direct) in [
            ("lab.org", true),
            ("hub.LAB.org", true),
            ("notlab.org", false),
            ("a.intern", true),
            ("huggingface.co", false),
        ] {
            assert_eq!(settings.is_direct(host), direct, "{host}");
        }
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.token.unwrap().header(), "Bearer hunter2");
        assert!(Token::new(" \n").is_none());
    }

    #[test]
    fn an_endpoint_is_one_of_https_or_of_this_machine() {
        for text in ["https://hub.org", "https://hub.org/mirror", "http://127.0.0.1:80"] {
            assert!(Settings::endpoint(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "hub.org",
            "http://hub.org",
            "https://a:b@hub.org",
            "https://hub.org?x",
            "file:///x",
        ] {
            assert!(Settings::endpoint(text).is_err(), "{text}");
        }
    }
}
