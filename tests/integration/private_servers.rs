//! Downloads inside a company: servers with certificates of its own authority, and the way out through a proxy.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::{prepared, tiny};

/// A name that only the proxy knows.
const BEHIND_PROXY: &str = "models.example.com";

/// Serves the files of a folder over TLS, with a certificate of an authority that nobody else knows.
struct PrivateServer {
    address: SocketAddr,
    /// The authority's certificate, as PEM.
    authority: String,
}

impl PrivateServer {
    fn start(folder: PathBuf) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned(), BEHIND_PROXY.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, folder) = (Arc::clone(&config), folder.clone());
                std::thread::spawn(move || answer(stream.unwrap(), config, &folder));
            }
        });
        Self { address, authority: issuer.pem() }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/manifest.json", self.address.port())
    }
}

/// One request of a connection, then its end. A client that does not trust us is gone before that.
fn answer(stream: TcpStream, config: Arc<ServerConfig>, folder: &Path) {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
    let Some(head) = read_head(&mut stream) else { return };
    let name = head.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    let (status, body) = match std::fs::read(folder.join(name)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let stream = stream.get_mut();
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    stream.conn.send_close_notify();
    drop(sent.and_then(|()| stream.flush()));
}

/// The lines up to the first empty one.
fn read_head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// A proxy that connects whoever asks with the one server that it knows; counts what it was asked for.
struct Proxy {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(server: SocketAddr) -> Self {
        let (listener, tunnels) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicUsize::new(0)));
        let proxy = Self { address: listener.local_addr().unwrap(), tunnels: Arc::clone(&tunnels) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, tunnels) = (stream.unwrap(), Arc::clone(&tunnels));
                std::thread::spawn(move || {
                    let head = read_head(&mut BufReader::new(&mut stream)).unwrap();
                    assert!(head.starts_with(&format!("CONNECT {BEHIND_PROXY}:443 ")), "{head}");
                    tunnels.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    join(stream, TcpStream::connect(server).unwrap());
                });
            }
        });
        proxy
    }
}

/// Carries bytes both ways until one side has ended.
fn join(mut client: TcpStream, mut server: TcpStream) {
    let (mut to_server, mut from_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || drop(std::io::copy(&mut from_client, &mut to_server)));
    drop(std::io::copy(&mut server, &mut client));
    drop(client.shutdown(std::net::Shutdown::Both));
}

/// A packed tiny model.
fn packed(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(tiny("llama")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let output = run(Command::new(env!("CARGO_BIN_EXE_inference-gateway")).arg("pack").arg(&model));
    assert!(output.status.success());
    model
}

fn fetch(cache: &Path, url: &str, variables: &[(&str, &str)]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_inference-gateway"))
        .args(["fetch", url])
        .env_clear()
        .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
        .env("INFERENCE_CACHE_DIR", cache)
        .envs(variables.iter().copied()))
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = PrivateServer::start(packed(folder.path()));
    let bundle = folder.path().join("authority.pem");
    std::fs::write(&bundle, &server.authority).unwrap();

    let refused = fetch(&folder.path().join("refusing"), &server.url(), &[("INFERENCE_STALL_TIMEOUT", "2s")]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));

    let named = [("INFERENCE_CA_BUNDLE", bundle.to_str().unwrap())];
    let fetched = fetch(&folder.path().join("trusting"), &server.url(), &named);
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    assert!(String::from_utf8_lossy(&fetched.stdout).contains("digest  sha256:"));
}

#[test]
fn a_bundle_without_certificates_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, complaint) in [
        ("missing.pem", None, "failed to read certificates from"),
        ("empty.pem", Some(""), "there is no certificate in"),
        (
            "broken.pem",
            Some("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            "failed to read certificates from",
        ),
    ] {
        let file = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let output = fetch(
            folder.path(),
            "https://localhost:9/manifest.json",
            &[("INFERENCE_CA_BUNDLE", file.to_str().unwrap())],
        );
        assert_eq!(output.status.code(), Some(1), "{name}");
        let message = stderr(&output);
        assert!(message.contains(complaint) && message.contains(name), "{message}");
        assert!(message.contains("INFERENCE_CA_BUNDLE"), "{message}");
    }
}

#[test]
fn downloads_go_through_the_proxy_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let server = PrivateServer::start(packed(folder.path()));
    let proxy = Proxy::start(server.address);
    let bundle = folder.path().join("authority.pem");
    std::fs::write(&bundle, &server.authority).unwrap();
    let (address, bundle) = (format!("http://{}", proxy.address), bundle.to_str().unwrap().to_owned());
    let variables = [("HTTPS_PROXY", address.as_str()), ("INFERENCE_CA_BUNDLE", bundle.as_str())];

    let url = format!("https://{BEHIND_PROXY}/manifest.json");
    let output = fetch(&folder.path().join("through"), &url, &variables);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(proxy.tunnels.load(Ordering::SeqCst) > 0);

    let asked = proxy.tunnels.load(Ordering::SeqCst);
    let around: Vec<_> = variables.into_iter().chain([("NO_PROXY", "localhost")]).collect();
    let output = fetch(&folder.path().join("around"), &server.url(), &around);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(proxy.tunnels.load(Ordering::SeqCst), asked);
}
