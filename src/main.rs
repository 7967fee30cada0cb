//! `portcullis`: the gate of a network. This file picks the command; everything it does lives in the crates.
#![forbid(unsafe_code)]

mod api;
mod ca;
mod cli;
mod command;
mod demo;
mod egress;
mod egress_doctor;
mod gslb;
mod gslb_parent;
mod privacy;
mod rollout;
mod waf;

use clap::Parser;
use std::process::ExitCode;

/// Measured 13 % less CPU per HTTP/1 request than the system's allocator, together with thin LTO.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for pages of 2 MiB. Without them an idle process holds 9 MiB less, and a request costs the same
    // (44 us against 44 us, interleaved). A kernel that cannot be told so goes on as before.
    let _ = nix::sys::prctl::set_thp_disable(true);
    portcullis_tls::install_provider();
    match command::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(cli::FAILED)
        }
    }
}
