//! A collector of traces: OTLP over gRPC and over HTTP on one port, as the definitions of OpenTelemetry describe them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::Listener;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::harness::{PATIENCE, spawn};

/// What has arrived; clones are of the same.
#[derive(Clone, Default)]
pub(super) struct Collector {
    arrived: Arc<Mutex<Arrived>>,
    pub(super) address: String,
}

#[derive(Default)]
struct Arrived {
    spans: Vec<Span>,
    resource: Vec<KeyValue>,
    /// `authorization` of the last batch.
    authorization: Option<String>,
}

/// TLS with a certificate of an authority that nobody else knows.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that does not trust us is gone.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// What answers with such a certificate, and the authority's own, as PEM.
fn encryption() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority of the collector");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), issuer.pem())
}

impl Collector {
    /// Listens on a port of the system's choice.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector =
            Self { address: format!("http://{}", listener.local_addr().unwrap()), ..Self::default() };
        let router = collector.router();
        spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// The same over TLS; also its authority, as PEM.
    pub(super) async fn start_encrypted() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (acceptor, authority) = encryption();
        let collector = Self { address, ..Self::default() };
        let router = collector.router();
        spawn(async move { axum::serve(Encrypted { listener, acceptor }, router).await });
        (collector, authority)
    }

    fn router(&self) -> Router {
        let by_http = self.clone();
        Router::new()
            .route(
                "/v1/traces",
                post(async move |headers: HeaderMap, body: Bytes| {
                    match ExportTraceServiceRequest::decode(body) {
                        Ok(request) => {
                            by_http.take(
                                request,
                                headers.get("authorization").map(|value| value.to_str().unwrap()),
                            );
                            (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
                        }
                        Err(_not_protobuf) => (StatusCode::BAD_REQUEST, Vec::new()),
                    }
                }),
            )
            .route_service(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                TraceServiceServer::new(self.clone()),
            )
    }

    fn take(&self, request: ExportTraceServiceRequest, authorization: Option<&str>) {
        let mut arrived = self.arrived.lock().unwrap();
        arrived.authorization = authorization.map(str::to_owned);
        for of_resource in request.resource_spans {
            arrived.resource = of_resource.resource.unwrap_or_default().attributes;
            arrived.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.arrived.lock().unwrap().spans.clone()
    }

    pub(super) fn resource(&self, name: &str) -> Option<String> {
        text(&self.arrived.lock().unwrap().resource, name)
    }

    pub(super) fn authorization(&self) -> Option<String> {
        self.arrived.lock().unwrap().authorization.clone()
    }

    /// Waits for a span that is not there yet; returns it, and all that have arrived.
    pub(super) async fn wait(&self, is_it: impl Fn(&Span) -> bool) -> (Span, Vec<Span>) {
        let began = Instant::now();
        loop {
            let spans = self.spans();
            if let Some(span) = spans.iter().find(|span| is_it(span)) {
                return (span.clone(), spans);
            }
            let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
            assert!(began.elapsed() < PATIENCE, "the span did not arrive; there are: {names:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let authorization =
            request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.take(request.into_inner(), authorization.as_deref());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn value(attributes: &[KeyValue], name: &str) -> Option<Value> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    found.value.clone().and_then(|AnyValue { value }| value)
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match value(attributes, name)? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        Value::ArrayValue(array) => {
            let texts = array.values.into_iter().filter_map(|one| match one.value? {
                Value::StringValue(text) => Some(text),
                _ => None,
            });
            Some(texts.collect::<Vec<_>>().join(","))
        }
        other => Some(format!("{other:?}")),
    }
}

/// An attribute of a span as text.
pub(super) fn attribute(span: &Span, name: &str) -> String {
    text(&span.attributes, name).unwrap_or_default()
}

/// The spans below one.
pub(super) fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect()
}

pub(super) fn names(spans: &[&Span]) -> Vec<String> {
    let mut names: Vec<String> = spans.iter().map(|span| span.name.clone()).collect();
    names.sort();
    names
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
