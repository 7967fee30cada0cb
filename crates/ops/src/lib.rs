//! What an operator touches: metrics, the access log, the admin socket, signals, the hand-over to a new binary; and what
//! keeps the process alive when memory or CPU gives out.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access_log;
pub mod admin;
mod egress_metrics;
mod give_back;
pub mod handover;
pub mod log;
mod mesh_metrics;
pub mod metrics;
mod overload;
mod overload_metrics;
mod overload_monitor;
mod overload_sampler;
mod overload_sources;
mod overload_spec;
mod privacy_metrics;
pub mod signals;
mod spec;
pub mod systemd;
mod tracing_spans;

pub use egress_metrics::{EgressMetrics, OpenTunnel};
pub use give_back::give_back_memory;
pub use mesh_metrics::MeshMetrics;
pub use overload::{
    MemoryLimit, MemoryWatch, Overload, OverloadAction, OverloadState, Resource, ResourceLevel, ResourceLevels,
    ResourceState, Shedding,
};
pub use overload_metrics::OverloadMetrics;
pub use overload_monitor::{CpuReading, MemoryReading, OverloadMonitor, Reading};
pub use overload_sampler::OverloadSampler;
pub use overload_sources::{OverloadSources, ReadError};
pub use overload_spec::{OverloadSpec, OverloadTable};
pub use privacy_metrics::{Leak, PrivacyMetrics};
pub use spec::{
    AccessLogSpec, AccessLogTarget, AdminSpec, LogFormat, MetricsSpec, ProcessSpec, QueryLogSpec, TelemetrySpec,
    Threads,
};
pub use tracing_spans::{Collector, NotACollector, Span, Tracer, TracingSpec};
