//! Spans to a collector, by OTLP over gRPC or HTTP: a task of its own that takes them from the queue in batches.
//!
//! A collector that is slow, refuses or is away delays nobody: its batch is given up after a time, the queue fills, and what does
//! not fit is counted as dropped. Retries within that time are the exporter's.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Traces;
use crate::metrics::{Metrics, SpanOutcome};

/// Spans that wait at most: what 50 requests a second make in ten seconds.
const QUEUE_SPANS: usize = 4096;
/// Spans sent at once at most.
const BATCH_SPANS: usize = 512;
/// A span waits so long at most for others to be sent with it.
const GATHER: Duration = Duration::from_secs(1);

/// How spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OtlpProtocol {
    /// OTLP over gRPC; collectors listen on port 4317.
    #[value(name = "grpc")]
    Grpc,
    /// OTLP over HTTP; collectors listen on port 4318.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

/// Which traces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SamplerName {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A part of them.
    #[value(name = "traceidratio")]
    TraceIdRatio,
    /// Those that the caller keeps; without a caller all.
    #[value(name = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// Those that the caller keeps.
    #[value(name = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// Those that the caller keeps; without a caller a part.
    #[value(name = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// Where traces go, and which.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// The whole address, for HTTP with its path.
    pub endpoint: String,
    /// How they are sent.
    pub protocol: OtlpProtocol,
    /// Headers of each batch.
    pub headers: HeaderMap,
    /// Time for a batch.
    pub timeout: Duration,
    /// Certificates of authorities in PEM that are trusted beside the system's.
    pub authorities: Option<Vec<u8>>,
    /// `service.name`.
    pub service_name: String,
    /// More attributes of the process.
    pub resource: Vec<(String, String)>,
    /// Which traces are kept.
    pub sampler: SamplerName,
    /// The part of them, from 0 to 1, for samplers that keep a part.
    pub ratio: f64,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address or the certificates are not usable.
    #[error("failed to prepare sending traces to {endpoint}")]
    Exporter {
        /// The address.
        endpoint: String,
        /// Why.
        #[source]
        cause: ExporterBuildError,
    },
    /// The client for HTTP cannot be made.
    #[error("failed to prepare sending traces by HTTP")]
    Client(#[source] reqwest::Error),
}

/// What sends spans; a task runs it.
pub struct SpanExport {
    queue: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    metrics: Arc<Metrics>,
    /// Whether the last batch arrived, so that a collector that is away is told of once.
    arrives: bool,
}

impl SpanExport {
    /// Makes the queue: its entrance, and what empties it. Within the async runtime.
    ///
    /// # Errors
    /// The address or the certificates are not usable.
    pub fn new(options: &TraceOptions, metrics: &Arc<Metrics>) -> Result<(Traces, Self), TracesError> {
        let mut exporter = exporter(options)?;
        exporter.set_resource(&resource(options));
        let (sender, queue) = mpsc::channel(QUEUE_SPANS);
        let traces = Traces::to(sampler(options), sender, Arc::clone(metrics));
        Ok((traces, Self { queue, exporter, metrics: Arc::clone(metrics), arrives: true }))
    }

    /// Sends spans until `over` says so, and then what is left. Whoever waits for that end bounds it.
    pub async fn run(mut self, mut over: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        loop {
            let ends = tokio::select! {
                ends = self.gather(&mut batch) => ends,
                // An error means that nobody can say so any more.
                _said = over.wait_for(|over| *over) => true,
            };
            if ends {
                break;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.queue.close();
        loop {
            while batch.len() < BATCH_SPANS
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for a batch to be full or old enough; true when no span will come any more.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) -> bool {
        if self.queue.recv_many(batch, BATCH_SPANS).await == 0 {
            return true;
        }
        let due = Instant::now() + GATHER;
        while batch.len() < BATCH_SPANS {
            let more = self.queue.recv_many(batch, BATCH_SPANS - batch.len());
            match tokio::time::timeout_at(due, more).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        false
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.metrics.spans(SpanOutcome::Exported, spans);
                if !std::mem::replace(&mut self.arrives, true) {
                    tracing::info!("traces arrive again");
                }
            }
            Err(error) => {
                self.metrics.spans(SpanOutcome::Failed, spans);
                if std::mem::replace(&mut self.arrives, false) {
                    tracing::warn!(%error, spans, "traces do not arrive; told again when they do");
                }
            }
        }
    }
}

fn exporter(options: &TraceOptions) -> Result<SpanExporter, TracesError> {
    let TraceOptions { endpoint, protocol, headers, timeout, authorities, .. } = options;
    let built = match protocol {
        OtlpProtocol::Grpc => {
            let builder = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(*timeout)
                .with_metadata(MetadataMap::from_headers(headers.clone()));
            if endpoint.starts_with("https:") {
                let authorities = authorities.as_ref().map(Certificate::from_pem);
                let tls = ClientTlsConfig::new().with_native_roots().ca_certificates(authorities);
                builder.with_tls_config(tls).build()
            } else {
                builder.build()
            }
        }
        OtlpProtocol::HttpProtobuf => {
            let text = |(name, value): (&HeaderName, &HeaderValue)| {
                Some((name.to_string(), value.to_str().ok()?.to_owned()))
            };
            SpanExporter::builder()
                .with_http()
                .with_endpoint(endpoint)
                .with_timeout(*timeout)
                .with_headers(headers.iter().filter_map(text).collect())
                .with_http_client(client(options)?)
                .build()
        }
    };
    built.map_err(|cause| TracesError::Exporter { endpoint: endpoint.clone(), cause })
}

/// A client without a proxy: those that the environment names are for downloads, and collectors are near.
fn client(options: &TraceOptions) -> Result<reqwest::Client, TracesError> {
    // Another client of this process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let authorities = options.authorities.as_deref().unwrap_or_default();
    let authorities = reqwest::Certificate::from_pem_bundle(authorities).map_err(TracesError::Client)?;
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(options.timeout)
        .tls_certs_merge(authorities)
        .build()
        .map_err(TracesError::Client)
}

fn resource(options: &TraceOptions) -> Resource {
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        KeyValue::new("telemetry.sdk.language", "rust"),
    ];
    let more = options.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let name = KeyValue::new("service.name", options.service_name.clone());
    Resource::builder_empty().with_attributes(own.into_iter().chain(more).chain([name])).build()
}

fn sampler(options: &TraceOptions) -> Sampler {
    let part = Sampler::TraceIdRatioBased(options.ratio);
    match options.sampler {
        SamplerName::AlwaysOn => Sampler::AlwaysOn,
        SamplerName::AlwaysOff => Sampler::AlwaysOff,
        SamplerName::TraceIdRatio => part,
        SamplerName::ParentBasedAlwaysOn => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
        SamplerName::ParentBasedAlwaysOff => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        SamplerName::ParentBasedTraceIdRatio => Sampler::ParentBased(Box::new(part)),
    }
}
