//! Proxies named by the environment. The sinks connect without a proxy, and log that if one is named.

use std::net::IpAddr;

/// The variable that names a proxy for connections to this host; `None` if NO_PROXY excludes it. Proxies do
/// not apply to this machine itself.
pub(super) fn variable(
    is_tls: bool,
    host: &str,
    value: impl Fn(&str) -> Option<String>,
) -> Option<&'static str> {
    let is_here = host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback());
    let excluded = ["no_proxy", "NO_PROXY"].into_iter().find_map(&value).unwrap_or_default();
    let excludes = |entry: &str| {
        let entry = entry.trim().trim_start_matches('.');
        let is_domain = || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
        entry == "*" || (!entry.is_empty() && (host == entry || is_domain()))
    };
    if is_here || excluded.split(',').any(excludes) {
        return None;
    }
    let names = if is_tls {
        ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    };
    names.into_iter().find(|name| value(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::variable;

    #[test]
    fn the_variable_that_other_programs_would_follow() {
        let of = |is_tls, host, set: &[(&str, &str)]| {
            let value =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            variable(is_tls, host, value)
        };
        let both = [("HTTP_PROXY", "http://p:1"), ("HTTPS_PROXY", "http://p:2")];
        assert_eq!(of(true, "collector.example", &both), Some("HTTPS_PROXY"));
        assert_eq!(of(false, "collector.example", &both), Some("HTTP_PROXY"));
        assert_eq!(of(false, "10.0.0.1", &[("ALL_PROXY", "socks5://p:1")]), Some("ALL_PROXY"));
        for here in ["localhost", "127.0.0.2", "::1"] {
            assert_eq!(of(true, here, &both), None);
        }
        assert_eq!(of(true, "collector.example", &[("HTTPS_PROXY", "")]), None);
        for (excluded, expected) in [
            ("example", None),
            ("a, .example", None),
            ("collector.example", None),
            ("*", None),
            ("ample", Some("HTTPS_PROXY")),
            ("", Some("HTTPS_PROXY")),
        ] {
            let set = [both[1], ("NO_PROXY", excluded)];
            assert_eq!(of(true, "collector.example", &set), expected, "{excluded:?}");
        }
    }
}
