//! placeholder
use std::process::ExitCode;
fn main() -> ExitCode {
    ringraft::cli::main()
}
