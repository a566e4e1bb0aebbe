//! The command `haypile`.

fn main() -> std::process::ExitCode {
    haypile_server::cli::run(std::env::args_os())
}
