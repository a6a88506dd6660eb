//! Runs `register` on Lambda.

use std::process::ExitCode;

use lambda_http::{Request, run, service_fn};
use relay::config::{Settings, environment};
use relay::logging;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (places, config) = register::config(&mut settings);
    logging::json(&places.stack);
    let serve = async {
        let (places, config) = settings.finish((places, config))?;
        let register = register::start(places, config).await?;
        run(service_fn(|request: Request| {
            register::handle(&register, request)
        }))
        .await
    };
    logging::ended(serve.await)
}
