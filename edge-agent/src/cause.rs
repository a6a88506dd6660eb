//! Why a connection failed, in words that a person can do something about.

/// The innermost cause of an error. Where a library's own words say little, ours say what is wrong.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = cause.to_string();
    let meaning = [
        (
            "InvalidContentType",
            "it does not speak TLS there: `http://` in the place of `https://`?",
        ),
        (
            "invalid HTTP version",
            "it does not answer in HTTP/1.1 (HTTP/2 without TLS is not supported)",
        ),
    ];
    let meaning = meaning.iter().find(|(part, _)| cause.contains(part));
    if let Some((_, meaning)) = meaning {
        return (*meaning).to_owned();
    }
    match is_of_proxy(error) {
        Some(proxy) => format!("the proxy of `{proxy}`: {cause}"),
        None => cause,
    }
}

/// The variable that names the proxy by which a connection was tried, if it was.
fn is_of_proxy(error: &dyn std::error::Error) -> Option<&'static str> {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let is_tunnel = chain
        .map(ToString::to_string)
        .any(|text| text.contains("tunnel"));
    is_tunnel.then(crate::config::proxy_variable).flatten()
}
