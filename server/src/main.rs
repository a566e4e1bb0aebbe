//! The command `haypile`.

const _: () = assert!(!haypile_engine::planted::ENABLED, "a product is built without planted bugs");

fn main() -> std::process::ExitCode {
    haypile_server::cli::run(std::env::args_os())
}
