//! URLs of members, as etcd checks them (etcd `client/pkg/types/urls.go`).

/// A URL as etcd takes them: scheme, host and port, no path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// As given, but for spaces around it, and the scheme in small letters.
    pub text: String,
    /// `http`, `https`, `unix`, `unixs`
    pub scheme: String,
    /// Without brackets; of a unix URL the path of its socket.
    pub host: String,
    /// 0 for unix sockets.
    pub port: u16,
}

impl Url {
    /// http or https
    pub fn is_tcp(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }
}

/// One URL. Rules and texts are those of etcd's `types.NewURLs`.
///
/// # Errors
/// etcd's sentence.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {}
        "unix" | "unixs" => {
            return Ok(Url { text: format!("{scheme}://{rest}"), scheme, host: rest.into(), port: 0 });
        }
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_host_port(authority)
        .ok_or_else(|| format!("URL address does not have the form \"host:port\": {text}"))?;
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {text}"));
    }
    Ok(Url { text: format!("{scheme}://{rest}"), scheme, host, port })
}

/// `host:port`, `[v6]:port`; the host may be empty.
fn split_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    if !host.chars().all(plain) || !port.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some((host.into(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_text_but_for_spaces_and_the_case_of_its_scheme() {
        let url = parse_url(" HTTP://Host.A:2380 ").expect("a good URL");
        assert_eq!((url.text.as_str(), url.host.as_str(), url.port), ("http://Host.A:2380", "Host.A", 2380));
        let form = "URL address does not have the form \"host:port\": http://a";
        assert_eq!(parse_url("http://a"), Err(form.into()));
    }
}
