use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Identity {
    cert: String,
    key: String,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn identity(authority: &Authority) -> Identity {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    let cert = params.signed_by(&key, &authority.issuer).unwrap().pem();
    Identity { cert, key: key.serialize_pem() }
}

/// A listener's configuration with the default settings.
fn server_config(cert: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<ServerConfig, Error> {
    ServerConfig::new(&Files { cert, key, client_ca, revoked: None }, &Settings::default())
}

fn client(
    ca: &Authority,
    identity: Option<&Identity>,
    alpn: &[&str],
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConnection {
    let roots = roots(ca.pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(id) => builder
            .with_client_auth_cert(
                certificates(id.cert.as_bytes(), "client").unwrap(),
                PrivateKeyDer::from_pem_slice(id.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// Moves bytes both ways, `cut` at a time, until nobody has any. What the server decrypts is appended to `got`.
fn pump(client: &mut ClientConnection, server: &mut Tls, cut: usize, got: &mut Vec<u8>) -> Result<(), Error> {
    loop {
        let mut up = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        for part in up.chunks(cut) {
            server.handle_bytes(part, got)?;
        }
        let mut down = Vec::new();
        server.poll_transmit(&mut down);
        let mut rest = &down[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(Error::Peer)?;
        }
        if up.is_empty() && down.is_empty() {
            return Ok(());
        }
    }
}

#[test]
fn bytes_go_both_ways_in_any_cut() {
    let ca = authority();
    let id = identity(&ca);
    let config = server_config(id.cert.as_bytes(), id.key.as_bytes(), None).unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for cut in [1, 100, usize::MAX] {
            let (mut client, mut server) =
                (client(&ca, None, &["h2", "http/1.1"], version), Tls::new(&config).unwrap());
            server.write(b"greeting"); // before the handshake: it waits
            let mut got = Vec::new();
            assert!(server.is_handshaking());
            pump(&mut client, &mut server, cut, &mut got).unwrap();
            assert!(!server.is_handshaking());
            assert_eq!(server.alpn(), Alpn::H2);
            let request = vec![7; 50_000];
            client.writer().write_all(&request).unwrap();
            pump(&mut client, &mut server, cut, &mut got).unwrap();
            assert!(got == request);
            server.write(&vec![9; 300_000]);
            let mut down = Vec::new();
            server.poll_transmit(&mut down);
            let (mut rest, mut answer) = (&down[..], Vec::new());
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
                let _ = client.reader().read_to_end(&mut answer); // WouldBlock at the end of what is there
            }
            assert!(answer.starts_with(b"greeting") && answer.len() == 300_008);
            client.send_close_notify();
            assert!(!server.is_closed_by_peer());
            pump(&mut client, &mut server, cut, &mut got).unwrap();
            assert!(server.is_closed_by_peer());
        }
    }
}

#[test]
fn alpn_is_chosen_by_the_server() {
    let ca = authority();
    let id = identity(&ca);
    let config = server_config(id.cert.as_bytes(), id.key.as_bytes(), None).unwrap();
    let cases: [(&[&str], Option<Alpn>); 5] = [
        (&["h2"], Some(Alpn::H2)),
        (&["http/1.1", "h2"], Some(Alpn::H2)),
        (&["http/1.1"], Some(Alpn::Http1)),
        (&[], Some(Alpn::None)),
        (&["spdy/3"], None),
    ];
    for (offer, want) in cases {
        let (mut client, mut server) =
            (client(&ca, None, offer, &rustls::version::TLS13), Tls::new(&config).unwrap());
        let done = pump(&mut client, &mut server, 1000, &mut Vec::new());
        assert_eq!(done.ok().map(|()| server.alpn()), want, "{offer:?}");
    }
}

#[test]
fn with_a_client_ca_only_its_clients_get_in() {
    let (ca, client_ca) = (authority(), authority());
    let id = identity(&ca);
    let config =
        server_config(id.cert.as_bytes(), id.key.as_bytes(), Some(client_ca.pem.as_bytes())).unwrap();
    let (good, bad) = (identity(&client_ca), identity(&ca));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (who, want) in [(Some(&good), true), (Some(&bad), false), (None, false)] {
            let (mut client, mut server) = (client(&ca, who, &["h2"], version), Tls::new(&config).unwrap());
            let done = pump(&mut client, &mut server, 1000, &mut Vec::new());
            assert_eq!(done.is_ok() && !server.is_handshaking(), want);
            if !want {
                let mut alert = Vec::new();
                server.poll_transmit(&mut alert);
                assert!(!alert.is_empty(), "the client is told why");
            }
        }
    }
}

#[test]
fn files_that_do_not_fit_are_named() {
    let ca = authority();
    let (a, b) = (identity(&ca), identity(&ca));
    let cases: [(&str, &str, Option<&str>, &str); 6] = [
        ("", &a.key, None, "certificate file holds no certificate"),
        (&a.cert, "", None, "key file holds no private key"),
        (&a.cert, "garbage", None, "key file holds no private key"),
        (&a.cert, &b.key, None, "certificate and key"),
        (&a.cert, &a.key, Some(""), "trusted CA file holds no certificate"),
        (
            &a.cert,
            &a.key,
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "trusted CA file",
        ),
    ];
    for (cert, key, ca, want) in cases {
        let result = server_config(cert.as_bytes(), key.as_bytes(), ca.map(str::as_bytes));
        let text = result.err().expect(want).to_string();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let ca = authority();
    let id = identity(&ca);
    let config = server_config(id.cert.as_bytes(), id.key.as_bytes(), None).unwrap();
    let hello = {
        let mut bytes = Vec::new();
        client(&ca, None, &["h2"], &rustls::version::TLS13).write_tls(&mut bytes).unwrap();
        bytes
    };
    let mut failures = 0;
    for at in 0..hello.len() {
        let mut server = Tls::new(&config).unwrap();
        let mut bytes = hello.clone();
        bytes[at] ^= 0x81;
        bytes.extend_from_slice(&[0x17; 100]);
        failures += usize::from(server.handle_bytes(&bytes, &mut Vec::new()).is_err());
        let mut out = Vec::new();
        server.poll_transmit(&mut out);
    }
    assert!(failures > hello.len() / 2, "{failures}");
    let mut server = Tls::new(&config).unwrap();
    assert!(server.handle_bytes(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new()).is_err());
}

/// Whether a client with this certificate and version gets through the handshake.
fn accepts(
    ca: &Authority,
    config: &ServerConfig,
    who: &Identity,
    version: &'static rustls::SupportedProtocolVersion,
) -> bool {
    let (mut client, mut server) = (client(ca, Some(who), &["h2"], version), Tls::new(config).unwrap());
    pump(&mut client, &mut server, 1000, &mut Vec::new()).is_ok() && !server.is_handshaking()
}

#[test]
fn only_the_versions_chosen_are_spoken() {
    use Version::{Tls12, Tls13};
    let ca = authority();
    let id = identity(&ca);
    for (min, max, old, new) in
        [(Tls12, Tls13, true, true), (Tls13, Tls13, false, true), (Tls12, Tls12, true, false)]
    {
        let files =
            Files { cert: id.cert.as_bytes(), key: id.key.as_bytes(), client_ca: None, revoked: None };
        let config = ServerConfig::new(&files, &Settings { min, max, ..Settings::default() }).unwrap();
        assert_eq!(accepts(&ca, &config, &id, &rustls::version::TLS12), old, "{min:?} to {max:?}");
        assert_eq!(accepts(&ca, &config, &id, &rustls::version::TLS13), new, "{min:?} to {max:?}");
    }
}

#[test]
fn only_the_suites_chosen_are_spoken() {
    let ca = authority();
    let id = identity(&ca);
    let files = Files { cert: id.cert.as_bytes(), key: id.key.as_bytes(), client_ca: None, revoked: None };
    // The certificate's key is ECDSA: a suite for RSA leaves nothing to speak TLS 1.2 with.
    let cases = [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", true),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", false),
        ("TLS_AES_128_GCM_SHA256", false),
    ];
    for (name, old) in cases {
        let settings = Settings { cipher_suites: vec![name.to_owned()], ..Settings::default() };
        let config = ServerConfig::new(&files, &settings).unwrap();
        assert_eq!(accepts(&ca, &config, &id, &rustls::version::TLS12), old, "{name}");
        assert!(accepts(&ca, &config, &id, &rustls::version::TLS13), "{name}");
        if old {
            let mut server = Tls::new(&config).unwrap();
            let mut client = client(&ca, None, &["h2"], &rustls::version::TLS12);
            pump(&mut client, &mut server, 1000, &mut Vec::new()).unwrap();
            assert_eq!(client.negotiated_cipher_suite(), Some(cipher_suite(name).unwrap()));
        }
    }
    assert_eq!(cipher_suite("TLS_RSA_WITH_AES_128_GCM_SHA256").err(), Some(SuiteError::Unsupported));
    assert_eq!(cipher_suite("TLS_ECDHE_RSA_WITH_AES_128_GCM").err(), Some(SuiteError::Unknown));
}

/// A list that revokes these serial numbers, signed by `signer`.
fn revocation_list(signer: &Authority, serials: &[u64]) -> rcgen::CertificateRevocationList {
    let entry = |&serial: &u64| rcgen::RevokedCertParams {
        serial_number: serial.into(),
        revocation_time: rcgen::date_time_ymd(2025, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2025, 1, 1),
        next_update: rcgen::date_time_ymd(2035, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&signer.issuer).unwrap()
}

fn identity_with(authority: &Authority, serial: u64, names: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(serial.into());
    let cert = params.signed_by(&key, &authority.issuer).unwrap().pem();
    Identity { cert, key: key.serialize_pem() }
}

/// etcd listener_tls.go, checkCRL: by serial number, whoever signed the list.
#[test]
fn a_revoked_certificate_is_refused() {
    let (ca, client_ca, stranger) = (authority(), authority(), authority());
    let id = identity(&ca);
    let (good, revoked) = (identity_with(&client_ca, 7, &["a"]), identity_with(&client_ca, 200, &["a"]));
    for signer in [&client_ca, &stranger] {
        let list = revocation_list(signer, &[200, 300]);
        for bytes in [list.der().to_vec(), list.pem().unwrap().into_bytes()] {
            let files = Files {
                cert: id.cert.as_bytes(),
                key: id.key.as_bytes(),
                client_ca: Some(client_ca.pem.as_bytes()),
                revoked: Some(&bytes),
            };
            let config = ServerConfig::new(&files, &Settings::default()).unwrap();
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                assert!(accepts(&ca, &config, &good, version));
                assert!(!accepts(&ca, &config, &revoked, version));
            }
            let cut = Files { revoked: Some(&bytes[..bytes.len() - 20]), ..files };
            let error = ServerConfig::new(&cut, &Settings::default()).err().expect("no list");
            assert!(error.to_string().starts_with("revocation list: "), "{error}");
        }
    }
}

#[test]
fn only_allowed_names_get_in() {
    let (ca, client_ca) = (authority(), authority());
    let id = identity(&ca);
    let settings = Settings {
        allowed_hostnames: vec!["api.k8s.example".to_owned(), "10.0.0.1".to_owned()],
        ..Settings::default()
    };
    let files = Files {
        cert: id.cert.as_bytes(),
        key: id.key.as_bytes(),
        client_ca: Some(client_ca.pem.as_bytes()),
        revoked: None,
    };
    let config = ServerConfig::new(&files, &settings).unwrap();
    let cases: [(&[&str], bool); 6] = [
        (&["api.k8s.example"], true),
        (&["other.k8s.example", "api.k8s.example"], true),
        (&["*.k8s.example"], true),
        (&["10.0.0.1"], true),
        (&["10.0.0.2"], false),
        (&["other.k8s.example"], false),
    ];
    for (names, want) in cases {
        let who = identity_with(&client_ca, 1, names);
        assert_eq!(accepts(&ca, &config, &who, &rustls::version::TLS13), want, "{names:?}");
    }
    let unsigned = identity_with(&ca, 1, &["api.k8s.example"]);
    assert!(
        !accepts(&ca, &config, &unsigned, &rustls::version::TLS13),
        "the name of a chain that is not verified"
    );
    let settings = Settings { allowed_hostnames: vec!["not a name".to_owned()], ..Settings::default() };
    assert!(ServerConfig::new(&files, &settings).is_err());
}

fn identity_called(authority: &Authority, common_name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let cert = params.signed_by(&key, &authority.issuer).unwrap().pem();
    Identity { cert, key: key.serialize_pem() }
}

/// etcd asks for the common name at both ends.
#[test]
fn only_allowed_common_names_get_in_and_are_believed() {
    let ca = authority();
    let settings =
        Settings { allowed_common_names: vec!["m0".to_owned(), "m1".to_owned()], ..Settings::default() };
    for (dials, listens, want) in [
        ("m0", "m1", true),
        ("m1", "m1", true),
        ("m2", "m1", false),
        ("m0", "m2", false),
        ("M0", "m1", false),
    ] {
        let (dials_with, listens_with) = (identity_called(&ca, dials), identity_called(&ca, listens));
        let files = Files {
            cert: listens_with.cert.as_bytes(),
            key: listens_with.key.as_bytes(),
            client_ca: Some(ca.pem.as_bytes()),
            revoked: None,
        };
        let mut server = Tls::new(&ServerConfig::new(&files, &settings).unwrap()).unwrap();
        let identity = Some((dials_with.cert.as_bytes(), dials_with.key.as_bytes()));
        let files = ClientFiles { identity, trust: Trust::Roots(ca.pem.as_bytes()) };
        let config = ClientConfig::new(&files, &settings, &[b"h2"]).unwrap();
        let mut client = config.connect("localhost").unwrap();
        assert_eq!(pump_both(&mut client, &mut server).is_ok(), want, "{dials} dials {listens}");
        if want {
            let shown = Names::of(server.peer_certificate().expect("it was asked for one")).unwrap();
            assert_eq!(shown.common_name, dials);
        }
    }
}

/// Moves bytes between two ends of ours until nobody has any; what each has decrypted.
fn pump_both(client: &mut Tls, server: &mut Tls) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    loop {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.poll_transmit(&mut up);
        server.handle_bytes(&up, &mut at_server)?;
        server.poll_transmit(&mut down);
        client.handle_bytes(&down, &mut at_client)?;
        if up.is_empty() && down.is_empty() {
            return Ok((at_client, at_server));
        }
    }
}

#[test]
fn our_client_believes_its_ca_and_the_name_it_dialed() {
    let (ca, other) = (authority(), authority());
    let (id, foreign) = (identity(&ca), identity(&other));
    let server = |ca: &str| {
        server_config(id.cert.as_bytes(), id.key.as_bytes(), Some(ca.as_bytes())).expect("sound files")
    };
    let roots = |authority: &Authority| authority.pem.clone().into_bytes();
    // trusted by the client (none: anybody), what it shows, the name it dials, whether they meet
    let cases = [
        (Some(roots(&ca)), Some(&id), "localhost", true),
        (Some(roots(&ca)), Some(&id), "127.0.0.1", false),
        (Some(roots(&other)), Some(&id), "localhost", false),
        (Some(roots(&ca)), Some(&foreign), "localhost", false),
        (Some(roots(&ca)), None, "localhost", false),
        (None, Some(&id), "127.0.0.1", true),
    ];
    for (number, (roots, shown, name, want)) in cases.into_iter().enumerate() {
        let identity = shown.map(|id| (id.cert.as_bytes(), id.key.as_bytes()));
        let trust = roots.as_deref().map_or(Trust::Anybody, Trust::Roots);
        let files = ClientFiles { identity, trust };
        let config = ClientConfig::new(&files, &Settings::default(), &[b"h2"]).expect("sound files");
        let mut client = config.connect(name).expect("a name");
        let mut server = Tls::new(&server(&ca.pem)).expect("sound");
        let met = pump_both(&mut client, &mut server).is_ok() && !server.is_handshaking();
        assert_eq!(met, want, "case {number}");
        if want {
            assert_eq!((client.alpn(), server.alpn()), (Alpn::H2, Alpn::H2));
            client.write(b"up");
            server.write(b"down");
            let got = pump_both(&mut client, &mut server).expect("an open session");
            assert_eq!(got, (b"down".to_vec(), b"up".to_vec()));
        }
    }
    let files = ClientFiles { identity: Some((b"", b"")), trust: Trust::Anybody };
    assert!(ClientConfig::new(&files, &Settings::default(), &[]).is_err(), "no certificate");
    let files = ClientFiles { identity: None, trust: Trust::Anybody };
    let config = ClientConfig::new(&files, &Settings::default(), &[]).expect("no files");
    assert!(config.connect("no name").is_err());
}
