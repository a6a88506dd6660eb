//! The one call of Lambda's API that `edge-relay admin` makes, `GetFunctionConfiguration` of the function `deliver`:
//! <https://docs.aws.amazon.com/lambda/latest/api/API_GetFunctionConfiguration.html>.

use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use relay::config::Resources;
use serde_json::json;

/// The function, as in a stack called `edge-relay`.
const DELIVER: &str = "edge-relay-deliver";

/// The name of the function whose configuration is asked for.
pub(crate) fn function(request: &Parts) -> Option<&str> {
    let path = request.uri.path().strip_prefix("/2015-03-31/functions/")?;
    path.strip_suffix("/configuration")
        .filter(|_| request.method == Method::GET)
}

/// The answer: the settings of `deliver`, if it is that.
pub(crate) fn configuration(resources: Resources, function: &str) -> Response<Vec<u8>> {
    if function != DELIVER {
        let problem = json!({
            "Type": "User",
            "Message": "Function not found: a relay on one machine is the stack edge-relay",
        });
        let mut response = Response::new(problem.to_string().into_bytes());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let Resources {
        table,
        queue,
        dead_letters,
        ..
    } = resources;
    let variables = json!({"TABLE_NAME": table, "QUEUE_URL": queue, "DLQ_URL": dead_letters});
    let configuration = json!({"FunctionName": function, "Environment": {"Variables": variables}});
    Response::new(configuration.to_string().into_bytes())
}
