//! Logs on stderr and metrics for Prometheus. Both are installed once per process.

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogFormat, LogSection};

/// Logs or metrics could not be installed.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// A filter that does not parse.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else installed logs before.
    #[error("logs: {0}")]
    Installed(#[from] Box<dyn std::error::Error + Send + Sync>),
    /// Buckets that the recorder refuses.
    #[error("metrics: {0}")]
    Buckets(#[from] BuildError),
    /// Somebody else installed metrics before.
    #[error("metrics: another recorder is installed")]
    Recorder,
}

/// Upper bounds of the histograms of times, in seconds.
const SECONDS: [f64; 16] =
    [0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Whether logs have colors: on a terminal, unless `NO_COLOR` is set to anything.
fn colors() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

/// Sends logs to stderr, so that stdout holds answers only. A filter in `RUST_LOG` wins. A line that cannot be written is lost, and
/// nothing else: to tell of it on stderr again would panic.
///
/// Errors: a filter that does not parse, logs installed before.
pub fn install_logs(log: &LogSection) -> Result<(), TelemetryError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::try_new(&log.filter)?,
    };
    let builder = fmt().with_env_filter(filter).with_ansi(colors()).with_writer(io::stderr).log_internal_errors(false);
    match log.format {
        LogFormat::Text => builder.try_init()?,
        LogFormat::Json => builder.json().try_init()?,
    }
    Ok(())
}

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The metrics of this process; installed by the first caller, so that nothing is ever registered twice (O13).
///
/// Errors: another recorder is installed.
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
    let installed = METRICS.get_or_init(|| {
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_or(None, |()| Some(handle))
    });
    installed.clone().ok_or(TelemetryError::Recorder)
}
