//! The `ringraft` program: everything it does is in the library, from [`ringraft::cli`] down.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringraft::cli::main()
}
