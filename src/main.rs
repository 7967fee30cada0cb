//! `portcullis`: see the library beside it.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    portcullis::main(portcullis::Program::Portcullis)
}
