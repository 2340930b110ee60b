//! `--cors` and `--host-whitelist`: which HTTP requests are answered, and which pages of a browser may read the answer.

use super::values;

/// Any is allowed.
const ANY: &str = "*";

/// Who may use the pages of the client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAccess {
    /// `--cors`: origins whose pages may read answers; `None`: all.
    pub origins: Option<Vec<String>>,
    /// `--host-whitelist`: names in `Host` that are answered where there is no TLS; `None`: all. It keeps a page that
    /// has its own name resolve to this machine from reading here (DNS rebinding, CVE-2018-5702).
    pub hosts: Option<Vec<String>>,
}

impl HttpAccess {
    /// Reads both flags, whose values are lists, or a star for any.
    ///
    /// # Errors
    /// etcd's sentence about the first origin that is none.
    pub(super) fn parse(cors: &str, host_whitelist: &str) -> Result<HttpAccess, String> {
        let origins = match cors {
            ANY | "" => None,
            // etcd takes origins in the form it takes listeners in: with a port.
            urls => Some(values::parse_urls(urls)?.into_iter().map(|url| url.text).collect()),
        };
        let hosts: Vec<String> =
            host_whitelist.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
        let any = hosts.is_empty() || hosts.iter().any(|host| host == ANY);
        Ok(HttpAccess { origins, hosts: (!any).then_some(hosts) })
    }

    /// What `Access-Control-Allow-Origin` says to a request with this `Origin`; `None`: nothing.
    pub fn allowed_origin(&self, origin: Option<&str>) -> Option<&str> {
        match &self.origins {
            None => Some(ANY),
            Some(origins) => origins.iter().find(|known| Some(known.as_str()) == origin).map(String::as_str),
        }
    }

    /// The refused name, if a request with this `Host` may not be answered.
    pub fn refused_host<'h>(&self, host: Option<&'h str>) -> Option<&'h str> {
        let hosts = self.hosts.as_ref()?;
        let name = without_port(host.unwrap_or(""));
        (!hosts.iter().any(|known| known == name)).then_some(name)
    }
}

/// The name in `name:port`, `[::1]:port` or `name`, as Go's `net.SplitHostPort` splits; what it can't split stays whole.
fn without_port(host: &str) -> &str {
    let Some((name, _)) = host.rsplit_once(':') else { return host };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => inner,
        None if name.contains([':', '[', ']']) => host,
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_allowed_as_listed() {
        let cases = [
            ("*", Some("http://a:1"), Some("*")),
            ("*", None, Some("*")),
            ("http://a:1,http://b:2", Some("http://b:2"), Some("http://b:2")),
            ("http://a:1", Some("http://b:2"), None),
            ("http://a:1", Some("*"), None),
            ("http://a:1", None, None),
        ];
        for (flag, origin, want) in cases {
            let access = HttpAccess::parse(flag, "*").expect(flag);
            assert_eq!(access.allowed_origin(origin), want, "{flag} {origin:?}");
        }
        assert!(HttpAccess::parse("a", "*").is_err());
    }

    #[test]
    fn hosts_are_answered_as_listed() {
        let cases = [
            ("*", Some("x"), None),
            ("", Some("x"), None),
            ("a,*", Some("x"), None),
            ("a,b", Some("b"), None),
            ("a,b", Some("b:2379"), None),
            ("a", Some("x:2379"), Some("x")),
            ("::1", Some("[::1]:2379"), None),
            ("::1", Some("[::1]"), Some("[::1]")), // as Go: without a port the brackets stay
            ("a", Some("a:1:2"), Some("a:1:2")),
            ("a", None, Some("")),
        ];
        for (flag, host, want) in cases {
            let access = HttpAccess::parse("*", flag).expect(flag);
            assert_eq!(access.refused_host(host), want, "{flag} {host:?}");
        }
    }
}
