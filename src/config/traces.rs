//! Settings of traces, under the names that every program with OpenTelemetry has.
//!
//! From: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol Exporter".

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::{ConfigError, Secret};
use crate::telemetry::{OtlpProtocol, SamplerName, TraceOptions};

/// Traces of requests and of the work on models, sent where an address is given.
#[derive(Debug, Clone, Args)]
pub struct TraceSettings {
    /// Whether no traces are sent, whatever else is said.
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub otel_sdk_disabled: bool,
    /// The collector to send traces to, as `http://collector:4318`. Default: none are sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// The same for traces alone; by HTTP the whole address with its path.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub otel_exporter_otlp_traces_endpoint: Option<String>,
    /// How traces are sent: `http/protobuf` (port 4318 of most collectors) or `grpc` (port 4317).
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_value = "http/protobuf",
        value_name = "PROTOCOL"
    )]
    pub otel_exporter_otlp_protocol: OtlpProtocol,
    /// Headers that are sent along, as `authorization=Bearer%20abc,x-tenant=a`. Never printed.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", value_name = "HEADERS", hide_env_values = true)]
    pub otel_exporter_otlp_headers: Option<Secret>,
    /// Time for a batch of spans to arrive, in milliseconds.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value = "10000", value_name = "MILLISECONDS")]
    pub otel_exporter_otlp_timeout: u64,
    /// PEM file with certificate authorities that the collector's certificate may be of, beside the system's.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    pub otel_exporter_otlp_certificate: Option<PathBuf>,
    /// Who sends the traces, and which are kept.
    #[command(flatten)]
    pub sender: TraceSenderSettings,
}

/// Who sends the traces, and which are kept.
#[derive(Debug, Clone, Args)]
pub struct TraceSenderSettings {
    /// Name of this service in traces. Default: `service.name` of the resource attributes, or `inference-gateway`.
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otel_service_name: Option<String>,
    /// More about this process in traces, as `deployment.environment.name=prod,k8s.pod.name=a`.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "ATTRIBUTES")]
    pub otel_resource_attributes: Option<String>,
    /// Which traces are kept. `parentbased_…`: as the caller's `traceparent` says, and without one as the rest says.
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        default_value = "parentbased_always_on",
        value_name = "SAMPLER"
    )]
    pub otel_traces_sampler: SamplerName,
    /// The part of all traces that `traceidratio` keeps, from 0 to 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_name = "PART", value_parser = part)]
    pub otel_traces_sampler_arg: f64,
}

impl TraceSettings {
    /// What is to be sent where; `None` where no address is given, or tracing is off.
    ///
    /// # Errors
    /// Headers or attributes are no `name=value,…`, or the certificates cannot be read.
    pub fn options(&self) -> Result<Option<TraceOptions>, ConfigError> {
        let Some(endpoint) = self.endpoint().filter(|_| !self.otel_sdk_disabled) else {
            return Ok(None);
        };
        let mut resource = self.sender.resource()?;
        let from_resource = resource.iter().position(|(name, _)| name == "service.name");
        let from_resource = from_resource.map(|at| resource.remove(at).1);
        let service_name = self.sender.otel_service_name.clone().or(from_resource);
        let authorities = self.otel_exporter_otlp_certificate.as_ref().map(|path| {
            std::fs::read(path).map_err(|cause| ConfigError::Certificate { path: path.clone(), cause })
        });
        Ok(Some(TraceOptions {
            endpoint,
            protocol: self.otel_exporter_otlp_protocol,
            headers: self.headers()?,
            timeout: Duration::from_millis(self.otel_exporter_otlp_timeout),
            authorities: authorities.transpose()?,
            service_name: service_name.unwrap_or_else(|| "inference-gateway".to_owned()),
            resource,
            sampler: self.sender.otel_traces_sampler,
            ratio: self.sender.otel_traces_sampler_arg,
        }))
    }

    fn endpoint(&self) -> Option<String> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        given(&self.otel_exporter_otlp_traces_endpoint).or_else(|| {
            let base = given(&self.otel_exporter_otlp_endpoint)?;
            Some(match self.otel_exporter_otlp_protocol {
                OtlpProtocol::Grpc => base,
                OtlpProtocol::HttpProtobuf => format!("{}/v1/traces", base.trim_end_matches('/')),
            })
        })
    }

    fn headers(&self) -> Result<HeaderMap, ConfigError> {
        const VARIABLE: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let mut headers = HeaderMap::new();
        let text = self.otel_exporter_otlp_headers.as_ref().map(Secret::reveal).unwrap_or_default();
        for (name, value) in pairs(VARIABLE, text)? {
            // Neither is told: a header may be a password.
            let wrong =
                || ConfigError::Pairs { variable: VARIABLE, part: "one that is no header".to_owned() };
            let name = HeaderName::try_from(name.to_ascii_lowercase()).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| wrong())?);
        }
        Ok(headers)
    }
}

impl TraceSenderSettings {
    fn resource(&self) -> Result<Vec<(String, String)>, ConfigError> {
        pairs("OTEL_RESOURCE_ATTRIBUTES", self.otel_resource_attributes.as_deref().unwrap_or_default())
    }
}

/// `name=value,name=value` with percent signs for what is special.
fn pairs(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty()).enumerate();
    parts
        .map(|(index, part)| {
            let wrong = || ConfigError::Pairs { variable, part: format!("number {}", index + 1) };
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
            let name = name.trim();
            if name.is_empty() { Err(wrong()) } else { Ok((name.to_owned(), value.into_owned())) }
        })
        .collect()
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "a number from 0 to 1 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn options(flags: &[&str]) -> Result<Option<TraceOptions>, ConfigError> {
        let command = TraceSettings::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], flags].concat())?;
        TraceSettings::from_arg_matches(&matches)?.options()
    }

    #[test]
    fn without_an_address_nothing_is_sent() {
        assert!(options(&[]).unwrap().is_none());
        assert!(options(&["--otel-exporter-otlp-endpoint="]).unwrap().is_none());
        let disabled = ["--otel-exporter-otlp-endpoint=http://a:4318", "--otel-sdk-disabled=true"];
        assert!(options(&disabled).unwrap().is_none());
    }

    #[test]
    fn the_address_of_traces_is_below_that_of_all_signals() {
        let endpoint = |flags: &[&str]| options(flags).unwrap().unwrap().endpoint;
        assert_eq!(endpoint(&["--otel-exporter-otlp-endpoint=http://a:4318/"]), "http://a:4318/v1/traces");
        let grpc = ["--otel-exporter-otlp-endpoint=http://a:4317", "--otel-exporter-otlp-protocol=grpc"];
        assert_eq!(endpoint(&grpc), "http://a:4317");
        let both =
            ["--otel-exporter-otlp-endpoint=http://a", "--otel-exporter-otlp-traces-endpoint=http://b/x"];
        assert_eq!(endpoint(&both), "http://b/x");
    }

    #[test]
    fn headers_and_attributes_are_read_as_the_specification_asks() {
        let base = "--otel-exporter-otlp-endpoint=http://a";
        let headers = "--otel-exporter-otlp-headers=Authorization=Bearer%20abc, x-tenant=a=b,";
        let resource = "--otel-resource-attributes=service.name=other,team=x%2Cy";
        let found = options(&[base, headers, resource]).unwrap().unwrap();
        assert_eq!(found.headers["authorization"], "Bearer abc");
        assert_eq!(found.headers["x-tenant"], "a=b");
        assert_eq!(found.service_name, "other");
        assert_eq!(found.resource, [("team".to_owned(), "x,y".to_owned())]);
        let named = options(&[base, resource, "--otel-service-name=mine"]).unwrap().unwrap();
        assert_eq!((named.service_name.as_str(), named.resource.len()), ("mine", 1));
    }

    #[test]
    fn what_is_wrong_is_refused_and_no_secret_is_told() {
        let base = "--otel-exporter-otlp-endpoint=http://a";
        for (flag, told) in [
            ("--otel-exporter-otlp-headers=a=b,secret", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("--otel-exporter-otlp-headers=a=sec%0Aret", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("--otel-resource-attributes=team", "OTEL_RESOURCE_ATTRIBUTES"),
            ("--otel-traces-sampler=sometimes", "parentbased_always_on"),
            ("--otel-traces-sampler-arg=2", "from 0 to 1"),
            ("--otel-exporter-otlp-protocol=http/json", "http/protobuf"),
            ("--otel-exporter-otlp-certificate=/nowhere", "/nowhere"),
        ] {
            let error = options(&[base, flag]).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("sec"), "{flag}: {error}");
        }
    }
}
