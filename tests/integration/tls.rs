//! TLS of the API listener: who is spoken with, by which certificate, and what happens when the files change.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Gateway, PATIENCE, settings, tiny};

/// The certificate is for this name; nobody resolves it but the tests' clients.
const NAME: &str = "gateway.example";

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM, and the certificate as bytes.
struct Pair {
    certificate: String,
    key: String,
    der: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pair(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

/// A folder with the files of the settings.
struct Files(tempfile::TempDir);

impl Files {
    fn new(pair: &Pair) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(pair);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, pair: &Pair) {
        std::fs::write(self.path("tls.key"), &pair.key).unwrap();
        std::fs::write(self.path("tls.crt"), &pair.certificate).unwrap();
    }

    async fn gateway(&self, flags: &[&str]) -> Gateway {
        let model = format!("--default-model-path={}", tiny("llama"));
        let certificate = format!("--tls-cert-file={}", self.path("tls.crt").display());
        let key = format!("--tls-key-file={}", self.path("tls.key").display());
        let mut all = vec![model.as_str(), &certificate, &key];
        all.extend(flags);
        Gateway::start(settings(&all)).await
    }
}

/// A client that trusts an authority, and keeps no connection.
fn client(gateway: &Gateway, authority: &Authority) -> ClientBuilder {
    Client::builder()
        .tls_certs_only([Certificate::from_pem(authority.0.pem().as_bytes()).unwrap()])
        .tls_info(true)
        .resolve(NAME, gateway.api)
        .resolve("other.example", gateway.api)
        .pool_max_idle_per_host(0)
}

fn url(gateway: &Gateway, path: &str) -> String {
    format!("https://{NAME}:{}{path}", gateway.api.port())
}

/// The certificate that the gateway shows.
async fn shown(gateway: &Gateway, client: &Client) -> Vec<u8> {
    let response = client.get(url(gateway, "/healthz")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
}

#[tokio::test]
async fn clients_speak_http_2_or_1_with_the_certificate_that_they_trust() {
    let authority = Authority::new("authority");
    let pair = authority.pair(|_| {});
    let files = Files::new(&pair);
    let gateway = files.gateway(&[]).await;
    gateway.wait_ready().await;
    let body = json!({"text": "Once", "max_tokens": 3, "stream": true}).to_string();
    for (only_1, version) in [(false, Version::HTTP_2), (true, Version::HTTP_11)] {
        let client = client(&gateway, &authority);
        let client = if only_1 { client.http1_only() } else { client }.build().unwrap();
        let response =
            client.post(url(&gateway, "/api/v1/inference")).body(body.clone()).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert!(response.text().await.unwrap().contains("\"metadata\""), "the stream is whole");
        assert_eq!(shown(&gateway, &client).await, pair.der);
    }
    let stranger = Authority::new("somebody else");
    assert!(
        client(&gateway, &stranger).build().unwrap().get(url(&gateway, "/healthz")).send().await.is_err()
    );
    let trusting = client(&gateway, &authority).build().unwrap();
    let wrong_name = format!("https://other.example:{}/healthz", gateway.api.port());
    assert!(trusting.get(wrong_name).send().await.is_err(), "the certificate is for another name");
    assert_eq!(gateway.get_ops("/readyz").await.status(), 200, "probes are not encrypted");
}

#[tokio::test]
async fn who_speaks_no_tls_or_an_old_one_is_sent_away() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority.pair(|_| {}));
    let gateway = files.gateway(&["--idle-timeout=1s"]).await;
    gateway.wait_ready().await;
    // A hello of TLS 1.1 with one cipher suite and no extension: type, version, length, then the message.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let plain = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n".to_vec();
    for (sent, what) in
        [(plain, "plain HTTP"), (hello, "TLS 1.1"), (vec![0x16, 3, 1], "half a hello"), (vec![], "nothing")]
    {
        let mut stream = TcpStream::connect(gateway.api).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let mut told = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut told)).await;
        drop(read.expect("the connection is closed"));
        // An alert, or nothing at all.
        assert!(told.first().is_none_or(|kind| *kind == 0x15), "{what}: {told:?}");
    }
    let good = client(&gateway, &authority).build().unwrap();
    assert_eq!(good.get(url(&gateway, "/healthz")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_new_certificate_is_used_at_once_and_a_broken_one_is_not() {
    let authority = Authority::new("authority");
    let [old, new, other] = [(); 3].map(|()| authority.pair(|_| {}));
    let files = Files::new(&old);
    let gateway = files.gateway(&[]).await;
    gateway.wait_ready().await;
    let client = client(&gateway, &authority).build().unwrap();
    assert_eq!(shown(&gateway, &client).await, old.der);
    let began = Instant::now();
    files.write(&new);
    while shown(&gateway, &client).await != new.der {
        assert!(began.elapsed() < PATIENCE, "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let success = "inference_gateway_file_reload_success{file=\"tls\"}";
    gateway.wait_sample(success, 1.0).await;
    // The key of another certificate, no key, no certificate.
    let swapped = Pair { certificate: other.certificate.clone(), key: new.key.clone(), der: Vec::new() };
    let no_key = Pair { certificate: new.certificate.clone(), key: String::new(), der: Vec::new() };
    let no_certificate = Pair { certificate: new.key.clone(), key: new.key.clone(), der: Vec::new() };
    for broken in [swapped, no_key, no_certificate] {
        files.write(&broken);
        gateway.wait_sample(success, 0.0).await;
        assert_eq!(shown(&gateway, &client).await, new.der, "the last good one stays");
        files.write(&new);
        gateway.wait_sample(success, 1.0).await;
    }
}

#[tokio::test]
async fn without_a_certificate_that_holds_no_connection_is_made_until_there_is_one() {
    let authority = Authority::new("authority");
    let pair = authority.pair(|_| {});
    let files = Files::new(&Pair {
        key: "nothing".to_owned(),
        certificate: pair.certificate.clone(),
        der: Vec::new(),
    });
    let gateway = files.gateway(&[]).await;
    let body = gateway.wait_not_ready().await;
    let reason = body["reason"].as_str().unwrap();
    assert!(reason.starts_with("no connection can be made: failed to read a private key from"), "{reason}");
    let client = client(&gateway, &authority).build().unwrap();
    assert!(client.get(url(&gateway, "/healthz")).send().await.is_err());
    files.write(&pair);
    gateway.wait_ready().await;
    assert_eq!(shown(&gateway, &client).await, pair.der);
}

#[tokio::test]
async fn clients_have_to_have_a_certificate_where_that_is_wanted() {
    let (servers, clients, strangers) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
    let files = Files::new(&servers.pair(|_| {}));
    std::fs::write(files.path("ca.crt"), clients.0.pem()).unwrap();
    let authority = format!("--tls-client-ca-file={}", files.path("ca.crt").display());
    let gateway = files.gateway(&[&authority]).await;
    gateway.wait_ready().await;
    let status = async |pair: Option<Pair>| {
        let mut builder = client(&gateway, &servers);
        if let Some(Pair { certificate, key, der: _ }) = pair {
            builder = builder.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
        }
        let sent = builder.build().unwrap().get(url(&gateway, "/healthz")).send().await;
        sent.map(|response| response.status().as_u16()).ok()
    };
    assert_eq!(status(Some(clients.pair(|_| {}))).await, Some(200));
    assert_eq!(status(None).await, None);
    assert_eq!(status(Some(strangers.pair(|_| {}))).await, None);
    let expired = clients.pair(|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    assert_eq!(status(Some(expired)).await, None);
    // Other authorities are followed like the certificate.
    std::fs::write(files.path("ca.crt"), strangers.0.pem()).unwrap();
    let began = Instant::now();
    while status(Some(strangers.pair(|_| {}))).await != Some(200) {
        assert!(began.elapsed() < PATIENCE, "the new authority is never trusted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(Some(clients.pair(|_| {}))).await, None);
}
