//! `mesh-proxy`: a workload's sidecar. The same program as `portcullis`, whose document plays the sidecar's role by
//! `[workload]`; only its commands are shorter: `mesh-proxy status` is `portcullis mesh status`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    portcullis::main(portcullis::Program::MeshProxy)
}
