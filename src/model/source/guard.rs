//! Which hosts and addresses remote sources may reach: the guard against requests that somebody else's address makes
//! us send into our own network.
//!
//! ```text
//! http.rs, each hop ─▶ Guard::check (scheme, host name, literal address)
//! reqwest, connecting ─▶ Guard::resolve ─▶ only addresses that may be reached
//! ```
//!
//! Names are judged when they are resolved for the very connection, so a name that changes its address between a
//! check and the connection gains nothing. Hosts that the settings of the process name are trusted: whoever sets them
//! owns the process. Behind a proxy, the proxy resolves names; then only what stands in the address is judged.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// A network, as `10.0.0.0/8` or `fd00::/8`.
pub type Network = ipnet::IpNet;

/// Which hosts may be reached.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    rules: Arc<GuardRules>,
}

/// The settings of a [`Guard`]. By default: https to any public address.
#[derive(Debug, Clone, Default)]
pub struct GuardRules {
    /// The only hosts that may be reached, as `models.example.com` or `*.example.com`; empty: any.
    pub allowed_hosts: Vec<HostPattern>,
    /// Hosts that may be reached without TLS.
    pub insecure_hosts: Vec<HostPattern>,
    /// Networks that may be reached although they are not public.
    pub private_networks: Vec<Network>,
    /// Hosts that the settings of the process name: never refused.
    pub trusted_hosts: BTreeSet<String>,
}

/// A host name, or all names below one (`*.example.com`, which does not include `example.com`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    below: bool,
}

/// Text that is no [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a host: write models.example.com, *.example.com or an address")]
pub struct InvalidHostPattern(String);

/// Why an address may not be reached; the text says what would allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host is not among the allowed ones.
    #[error("the host {0} is not allowed: add it to INFERENCE_ALLOWED_HOSTS")]
    Host(String),
    /// Plain http to a host that was not named for it.
    #[error("plain http to {0} is not allowed: use https, or add the host to INFERENCE_INSECURE_HOSTS")]
    Insecure(String),
    /// The address is not public.
    #[error(
        "{host} is at {address}, which is not a public address: add its network to INFERENCE_ALLOWED_PRIVATE_NETWORKS"
    )]
    Private {
        /// As in the address.
        host: String,
        /// What it resolves to.
        address: IpAddr,
    },
}

impl Guard {
    /// A guard with these rules.
    pub fn new(rules: GuardRules) -> Self {
        Self { rules: Arc::new(rules) }
    }

    /// Judges what stands in an address: scheme, host name, literal IP address.
    ///
    /// # Errors
    /// It may not be reached.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refusal> {
        let host = url.host_str().unwrap_or_default();
        if self.is_trusted(host) {
            return Ok(());
        }
        let named = |patterns: &[HostPattern]| patterns.iter().any(|pattern| pattern.matches(host));
        if !self.rules.allowed_hosts.is_empty() && !named(&self.rules.allowed_hosts) {
            return Err(Refusal::Host(host.to_owned()));
        }
        if url.scheme() != "https" && !named(&self.rules.insecure_hosts) {
            return Err(Refusal::Insecure(host.to_owned()));
        }
        // The parser has turned decimal, octal and hexadecimal spellings into an address.
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(host, address.into()),
            Some(Host::Ipv6(address)) => self.check_address(host, address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        let inner = embedded(address);
        let allowed = |network: &Network| network.contains(&address) || network.contains(&inner);
        if (is_public(address) && is_public(inner)) || self.rules.private_networks.iter().any(allowed) {
            return Ok(());
        }
        Err(Refusal::Private { host: host.to_owned(), address })
    }

    /// Whether the settings name a host for plain http.
    pub(super) fn may_be_plain(&self, host: &str) -> bool {
        self.rules.insecure_hosts.iter().any(|pattern| pattern.matches(host))
    }

    fn is_trusted(&self, host: &str) -> bool {
        self.rules.trusted_hosts.contains(host)
    }
}

impl Resolve for Guard {
    /// The addresses of a name that may be reached; an error when there are only others.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            // The port is filled in by the client.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            if guard.is_trusted(host) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            // One public address beside a private one is how rebinding begins: all have to be allowed.
            for address in &found {
                guard.check_address(host, address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        if !self.below {
            return host.eq_ignore_ascii_case(&self.name);
        }
        let Some(at) = host.len().checked_sub(self.name.len() + 1) else {
            return false;
        };
        at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(&format!(".{}", self.name))
    }
}

impl std::str::FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        let text = text.trim();
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let host = Host::parse(name).map_err(|_unusable| InvalidHostPattern(text.to_owned()))?;
        if name.contains('*') || below && !matches!(host, Host::Domain(_)) {
            return Err(InvalidHostPattern(text.to_owned()));
        }
        Ok(Self { name: host.to_string(), below })
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4; any other address itself.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let octets = v6.octets();
    let tail = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    match v6.segments() {
        // ::1 and :: are judged as what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => tail.into(),
        [0x2002, ..] => Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]).into(),
        _ => address,
    }
}

/// Whether an address is one of the public internet.
///
/// From: the IANA special-purpose address registries (RFC 6890 and its updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation();
    let reserved = match first {
        0 | 240..=255 => true,
        // Carrier-grade translation; protocol assignments; benchmarks.
        100 => (64..128).contains(&second),
        192 => second == 0 && third == 0,
        198 => second == 18 || second == 19,
        _ => false,
    };
    !special && !reserved
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let special = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local();
    let reserved = match address.segments() {
        // Site-local of old; documentation; discard; local translation.
        [first, ..] if first & 0xffc0 == 0xfec0 => true,
        [0x2001, 0xdb8, ..] | [0x3fff, ..] | [0x100, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => true,
        _ => false,
    };
    !special && !reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(rules: GuardRules) -> impl Fn(&str) -> Result<(), Refusal> {
        let guard = Guard::new(rules);
        move |url| guard.check(&Url::parse(url).unwrap())
    }

    #[test]
    fn addresses_of_our_own_network_are_refused_in_every_spelling() {
        let check = guard(GuardRules::default());
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.9",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fc00::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
        ] {
            let refusal = check(&format!("https://{host}/model.onnx")).unwrap_err();
            assert!(matches!(refusal, Refusal::Private { .. }), "{host}: {refusal}");
        }
        for host in ["1.1.1.1", "[2606:4700::1111]", "example.com", "[64:ff9b::101:101]"] {
            assert_eq!(check(&format!("https://{host}/model.onnx")), Ok(()), "{host}");
        }
    }

    #[test]
    fn rules_open_what_they_name_and_nothing_else() {
        let parse =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<HostPattern>>();
        let check = guard(GuardRules {
            allowed_hosts: parse(&["models.example.com", "*.trusted.org", "10.0.0.7"]),
            insecure_hosts: parse(&["10.0.0.7"]),
            private_networks: vec!["10.0.0.0/29".parse().unwrap()],
            trusted_hosts: BTreeSet::from(["localhost".to_owned()]),
        });
        for url in [
            "https://models.example.com/a",
            "https://MODELS.example.com/a",
            "https://a.b.trusted.org/a",
            "https://10.0.0.7/a",
            "http://10.0.0.7/a",
            "http://localhost:9/a",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in
            ["https://trusted.org/", "https://eviltrusted.org/", "https://example.com/", "https://10.0.0.3/"]
        {
            assert!(matches!(check(url), Err(Refusal::Host(_))), "{url}");
        }
        assert!(matches!(check("http://models.example.com/"), Err(Refusal::Insecure(_))));
        let unnamed = guard(GuardRules {
            private_networks: vec!["10.0.0.0/29".parse().unwrap()],
            ..GuardRules::default()
        });
        assert_eq!(unnamed("https://10.0.0.6/"), Ok(()));
        assert!(matches!(unnamed("https://10.0.0.9/"), Err(Refusal::Private { .. })));
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_accepted_forms() {
        for text in ["", "*", "*.", "https://example.com", "exa mple.com", "*.10.0.0.1", "a/b"] {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains("*.example.com"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let resolve = |rules: GuardRules| Guard::new(rules).resolve("localhost".parse().unwrap());
        let Err(error) = resolve(GuardRules::default()).await else {
            panic!("localhost was resolved");
        };
        assert!(error.downcast_ref::<Refusal>().is_some(), "{error}");
        let trusted =
            GuardRules { trusted_hosts: BTreeSet::from(["localhost".to_owned()]), ..GuardRules::default() };
        assert!(resolve(trusted).await.is_ok_and(|mut found| found.next().is_some()));
    }
}
