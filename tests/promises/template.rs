//! What is deployed is what was tested: the translated template, held against the code and against what the functions
//! use and emit while the promises are tested.
//!
//! Run by `.ci/run`, which translates the template first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use local::dynamodb::TABLE;
use local::gateway::ROUTES;
use local::local_relay::{
    DEAD_LETTERS, MAX_RECEIVE_COUNT, QUEUE, RETENTION_SECONDS, VISIBILITY_SECONDS,
};
use local::secrets::SECRET_ID;
use relay::config::Settings;
use relay::metrics::METRICS;
use relay::table::{INDEX, PROJECTED, SHARD};
use relay::{deliver, health, linear, policy, register};
use serde_json::{Value, json};

use crate::harness::filter::{Filter, Sample};
use crate::harness::template::{Template, arn, as_text, resource, route_key};
use crate::harness::used::{LOGGED, USED, noted};

const FUNCTIONS: [&str; 4] = ["ingest", "register", "deliver", "health"];

/// With the names that everything has on one machine.
fn template() -> Template {
    let mut template = Template::read();
    template.refer("Table", TABLE);
    template.refer("LinearWebhookSecrets", SECRET_ID);
    let queues = "https://sqs.us-east-1.amazonaws.com/000000000000";
    template.refer("Queue", &format!("{queues}/deliveries.fifo"));
    template.refer("DeadLetters", &format!("{queues}/dead.fifo"));
    template.attribute("Table.Arn", TABLE);
    template.attribute("Queue.Arn", QUEUE);
    template.attribute("DeadLetters.Arn", DEAD_LETTERS);
    template
}

fn environment(template: &Template, function: &str) -> BTreeMap<String, String> {
    let properties = template.properties(&resource(function));
    let variables = properties["Environment"]["Variables"].as_object().unwrap();
    (variables.iter())
        .map(|(name, value)| (name.clone(), as_text(value)))
        .collect()
}

/// Reads a function's settings; answers with the names that it asked for, and with what was wrong.
fn read_settings(
    function: &str,
    from: &BTreeMap<String, String>,
) -> (BTreeSet<String>, Option<String>) {
    let asked = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        // Lambda gives it to every function.
        let region = (name == "AWS_REGION").then(|| "us-east-1".to_owned());
        from.get(name).cloned().or(region)
    };
    let mut settings = Settings::new(&lookup);
    match function {
        "ingest" => drop(ingest::config(&mut settings)),
        "register" => drop(::register::config(&mut settings)),
        "deliver" => drop(::deliver::config(&mut settings)),
        _ => drop(::health::config(&mut settings)),
    }
    let wrong = settings.finish(()).err().map(|error| error.to_string());
    let mut asked = asked.into_inner();
    // Lambda's and the SDK's own, which a deployment leaves alone.
    asked.retain(|name| !name.starts_with("AWS_"));
    (asked, wrong)
}

fn seconds(value: &Value) -> Duration {
    let number = value.as_u64();
    Duration::from_secs(number.unwrap_or_else(|| panic!("{value} is no number")))
}

/// A field that has to be a text.
fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn each_function_gets_the_settings_that_it_reads_and_no_others() {
    let template = template();
    for function in FUNCTIONS {
        let given = environment(&template, function);
        let (asked, wrong) = read_settings(function, &given);
        let names: BTreeSet<_> = given.keys().cloned().collect();
        assert_eq!(names, asked, "{function}");
        assert_eq!(wrong, None, "{function}");
        // None is there for nothing: without it there is another value, or a complaint.
        for name in &asked {
            let mut less = given.clone();
            less.remove(name);
            let complaint = read_settings(function, &less).1.unwrap_or_default();
            let needed = "TABLE_NAME QUEUE_URL DLQ_URL LINEAR_WEBHOOK_SECRET_ID";
            let is_needed = needed.split(' ').any(|needed| needed == name);
            let is_missed = complaint.contains(&format!("`{name}`"));
            assert_eq!(is_missed, is_needed, "{function} without {name}");
        }
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn a_parameters_bounds_are_those_of_the_setting() {
    let template = template();
    let mut bounded = 0;
    for function in FUNCTIONS {
        let raw = &template.raw(&resource(function))["Properties"]["Environment"]["Variables"];
        for (name, value) in raw.as_object().unwrap() {
            let Some(parameter) = value["Ref"].as_str().map(|name| template.parameter(name)) else {
                continue;
            };
            let bounds = ["MinValue", "MaxValue"].map(|bound| parameter[bound].as_i64());
            let [Some(least), Some(most)] = bounds else {
                continue;
            };
            let complains = |number: i64| {
                let mut given = environment(&template, function);
                given.insert(name.clone(), number.to_string());
                read_settings(function, &given).1.is_some()
            };
            let around = [least - 1, least, most, most + 1].map(complains);
            assert_eq!(around, [true, false, false, true], "{function}: {name}");
            bounded += 1;
        }
    }
    assert!(bounded >= 7, "{bounded}");
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn no_timeout_ends_before_what_it_contains() {
    let template = template();
    let timeout = |function: &str| seconds(&template.properties(&resource(function))["Timeout"]);
    let queue = template.properties("Queue");
    let visibility = seconds(&queue["VisibilityTimeout"]);
    let attempt = seconds(
        &template.properties("Deliver")["Environment"]["Variables"]["DELIVERY_TIMEOUT_SECONDS"],
    );
    // A batch's last attempt, and a moment to say what became of it.
    let moment = Duration::from_secs(5);
    assert!(deliver::BATCH_BUDGET + attempt + moment <= timeout("deliver"));
    // Lambda Developer Guide, "Using Lambda with Amazon SQS": throttled batches are tried again within it.
    assert_eq!(visibility, timeout("deliver") * 6);
    assert!(linear::api::TIMEOUT + register::CHALLENGE_TIMEOUT + moment <= timeout("register"));
    // API Gateway, quota "Maximum integration timeout" of an HTTP API.
    let gateway = Duration::from_secs(30);
    assert!(timeout("register") < gateway && timeout("ingest") < gateway);
    assert!(health::BUDGET + attempt + moment <= timeout("health"));
    assert!(timeout("health") < policy::PROBE_INTERVAL);

    let most = queue["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap();
    let longest =
        seconds(&template.properties("Deliver")["Environment"]["Variables"]["GIVE_UP_SECONDS"]);
    let mut age = Duration::ZERO;
    let mut attempts = 0;
    while age < longest {
        age += policy::backoff(age, None, -1.0);
        attempts += 1;
    }
    let enough = attempts + attempts / 2;
    assert!(most > enough, "{most} receives for {attempts} attempts");
    assert!(seconds(&queue["MessageRetentionPeriod"]) > longest);
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn queues_and_table_are_those_of_one_machine() {
    let template = template();
    for name in ["Queue", "DeadLetters"] {
        let queue = template.properties(name);
        assert_eq!(queue["FifoQueue"], true);
        assert_eq!(queue["DeduplicationScope"], "messageGroup");
        assert_eq!(queue["FifoThroughputLimit"], "perMessageGroupId");
        assert_eq!(queue["VisibilityTimeout"], VISIBILITY_SECONDS);
        assert_eq!(queue["MessageRetentionPeriod"], RETENTION_SECONDS);
        assert_eq!(queue["SqsManagedSseEnabled"], true);
    }
    let queue = template.properties("Queue");
    let redrive =
        json!({"deadLetterTargetArn": DEAD_LETTERS, "maxReceiveCount": MAX_RECEIVE_COUNT});
    assert_eq!(queue["RedrivePolicy"], redrive);
    let allowed = &template.properties("DeadLetters")["RedriveAllowPolicy"];
    let source = arn(queue["QueueName"].as_str().unwrap());
    let by_queue = json!({"redrivePermission": "byQueue", "sourceQueueArns": [source]});
    assert_eq!(*allowed, by_queue);

    let table = template.properties("Table");
    let keys = |names: &[(&str, &str)]| -> Value {
        (names.iter())
            .map(|(name, kind)| json!({"AttributeName": name, "KeyType": kind}))
            .collect()
    };
    assert_eq!(table["KeySchema"], keys(&[("pk", "HASH"), ("sk", "RANGE")]));
    let index = json!([{
        "IndexName": INDEX,
        "KeySchema": keys(&[(SHARD, "HASH")]),
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": PROJECTED},
    }]);
    assert_eq!(table["GlobalSecondaryIndexes"], index);
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    let expiry = json!({"AttributeName": "expires_at", "Enabled": true});
    assert_eq!(table["TimeToLiveSpecification"], expiry);
    let recovery = &table["PointInTimeRecoverySpecification"];
    assert_eq!(recovery["PointInTimeRecoveryEnabled"], true);
    assert_eq!(table["SSESpecification"]["SSEEnabled"], true);
    assert_eq!(table["DeletionProtectionEnabled"], true);
    assert_eq!(template.raw("Table")["DeletionPolicy"], "Retain");
    assert_eq!(template.raw("Table")["UpdateReplacePolicy"], "Retain");
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn routes_source_and_schedule_are_those_of_one_machine() {
    let template = template();
    let body = &template.properties("Api")["Body"];
    let mut routes = BTreeSet::new();
    for (path, methods) in body["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let integration = &route["x-amazon-apigateway-integration"];
            assert_eq!(integration["payloadFormatVersion"], "2.0");
            let uri = integration["uri"].as_str().unwrap();
            let is_called = |f: &&str| uri.contains(&format!("{}Aliaslive", resource(f)));
            let function = FUNCTIONS.into_iter().find(is_called).unwrap();
            routes.insert((route_key(method, path), function));
        }
    }
    let expected = ROUTES.iter().map(|(route, f)| ((*route).to_owned(), *f));
    assert_eq!(routes, expected.collect());
    let stage = template.properties("ApiApiGatewayDefaultStage");
    let settings = &stage["RouteSettings"];
    for (route, _) in ROUTES {
        let limit = &settings[route]["ThrottlingRateLimit"];
        assert!(limit.is_number(), "{route}");
    }
    let webhooks = &settings["POST /webhooks/linear"];
    assert_eq!(webhooks["DetailedMetricsEnabled"], true);

    let source = template.properties("DeliverDelivery");
    assert_eq!(source["EventSourceArn"], QUEUE);
    assert_eq!(source["BatchSize"], 10);
    let responses = &source["FunctionResponseTypes"];
    assert_eq!(*responses, json!(["ReportBatchItemFailures"]));

    let schedules = template.named("AWS::Scheduler::Schedule");
    assert_eq!(schedules, ["HealthPart0", "IngestKeepWarm"]);
    let schedule = template.properties("HealthPart0");
    let minutes = policy::PROBE_INTERVAL.as_secs() / 60;
    let expression = format!("cron(0/{minutes} * * * ? *)");
    assert_eq!(schedule["ScheduleExpression"], expression);
    let input = schedule["Target"]["Input"].as_str().unwrap();
    let input = input.replace("<aws.scheduler.scheduled-time>", "2026-11-24T00:05:00Z");
    let input: ::health::ScheduleEvent = serde_json::from_str(&input).unwrap();
    assert_eq!((input.part, input.of), (0, 1));
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn ingest_is_kept_warm_if_that_is_asked_for_by_what_it_can_answer() {
    let mut template = template();
    let schedule = template.properties("IngestKeepWarm");
    assert_eq!(schedule["State"], "DISABLED");
    template.set("KeepWarm", "true");
    let schedule = template.properties("IngestKeepWarm");
    assert_eq!(schedule["State"], "ENABLED");
    let input = schedule["Target"]["Input"].as_str().unwrap();
    let request = lambda_http::request::from_str(input).unwrap();
    assert_eq!(request.uri().path(), "/webhooks/linear");
    // It reaches the function that answers, and not the HTTP API.
    assert_eq!(schedule["Target"]["Arn"], "IngestAliaslive");
}

/// What a role allows: actions, each on a resource.
fn allowed(template: &Template, role: &str) -> BTreeSet<(String, String)> {
    let role = template.properties(role);
    // A managed policy allows more.
    assert!(role["ManagedPolicyArns"].is_null());
    let mut found = BTreeSet::new();
    for policy in role["Policies"].as_array().unwrap() {
        for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow");
            let list = |value: &Value| match value {
                Value::Array(all) => all.iter().map(text).collect(),
                one => vec![text(one)],
            };
            for action in list(&statement["Action"]) {
                for resource in list(&statement["Resource"]) {
                    found.insert((action.clone(), resource));
                }
            }
        }
    }
    found
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn each_function_may_do_what_it_did_and_nothing_else() {
    let template = template();
    let mut did: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for entry in noted(USED) {
        if entry["action"].is_null() {
            continue;
        }
        let action = (text(&entry["action"]), text(&entry["resource"]));
        let actions = did.entry(text(&entry["function"])).or_default();
        actions.insert(action);
    }
    for function in FUNCTIONS {
        let name = resource(function);
        let mut may = allowed(&template, &format!("{name}Role"));
        // Its own log, which Lambda writes for it.
        for action in ["logs:CreateLogStream", "logs:PutLogEvents"] {
            let logging = (action.to_owned(), format!("{name}Logs.Arn"));
            assert!(may.remove(&logging), "{function}");
        }
        let did = &did[function];
        assert_eq!(may, *did, "{function}: what it may do, and what it did");
        let role = template.properties(&name)["Role"].clone();
        assert_eq!(role, format!("{name}Role.Arn"));
    }
    let mut traced = self::template();
    traced.set("Tracing", "Active");
    let more = &allowed(&traced, "IngestRole") - &allowed(&template, "IngestRole");
    assert!(more.iter().all(|(action, _)| action.starts_with("xray:")) && more.len() == 2);
}

/// The values of a condition on a role's use of the table.
fn condition(template: &Template, role: &str, operator: &str, key: &str) -> BTreeSet<String> {
    let role = template.properties(role);
    let policies = role["Policies"].as_array().unwrap().iter();
    let mut statements =
        policies.flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().unwrap());
    let on_table = |statement: &&Value| {
        let is_of_dynamodb = statement["Action"].to_string().contains("dynamodb:");
        is_of_dynamodb && !statement["Resource"].to_string().contains("/index/")
    };
    let statement = statements.find(on_table).unwrap();
    assert!(
        statements.find(on_table).is_none(),
        "one statement is about the table"
    );
    let values = &statement["Condition"][operator][key];
    values.as_array().into_iter().flatten().map(text).collect()
}

/// The partition keys of the table that a role allows.
fn allowed_keys(template: &Template, role: &str) -> BTreeSet<String> {
    condition(
        template,
        role,
        "ForAllValues:StringLike",
        "dynamodb:LeadingKeys",
    )
}

/// Whether a pattern of IAM matches a key: a star stands for any characters.
fn matches(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == key,
        Some((before, after)) => key.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
        }),
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn each_function_may_touch_the_partitions_that_it_touched_and_no_others() {
    let template = template();
    let mut touched: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in noted(USED) {
        if let Some(partition) = entry["partition"].as_str() {
            let partitions = touched.entry(text(&entry["function"])).or_default();
            partitions.insert(partition.to_owned());
        }
    }
    for function in FUNCTIONS {
        let may = allowed_keys(&template, &format!("{}Role", resource(function)));
        let touched = &touched[function];
        for key in touched {
            assert!(
                may.iter().any(|pattern| matches(pattern, key)),
                "{function}: {key}"
            );
        }
        for pattern in &may {
            assert!(
                touched.iter().any(|key| matches(pattern, key)),
                "{function}: {pattern}"
            );
        }
    }
    // The worker's secrets and its mailbox are none of `ingest`'s business.
    let ingest = allowed_keys(&template, "IngestRole");
    for key in ["WS#w#WORKER#wrk_1", "TOKEN#x", "RATE#x"] {
        assert!(!ingest.iter().any(|pattern| matches(pattern, key)), "{key}");
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn what_a_registration_says_is_written_by_register_alone() {
    let template = template();
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in noted(USED) {
        if let Some(attribute) = entry["attribute"].as_str() {
            let attributes = named.entry(text(&entry["function"])).or_default();
            attributes.insert(attribute.to_owned());
        }
    }
    let [allow, refuse] = ["StringEquals", "StringNotEquals"].map(|o| format!("ForAllValues:{o}"));
    let of =
        |role: &str, operator: &str| condition(&template, role, operator, "dynamodb:Attributes");
    assert_eq!(
        of("IngestRole", &allow),
        named["ingest"],
        "what `ingest` may name"
    );
    for function in ["deliver", "health"] {
        let refused = of(&format!("{}Role", resource(function)), &refuse);
        assert!(refused.is_subset(&named["register"]), "{refused:?}");
        assert!(refused.is_disjoint(&named[function]), "{function}");
        for attribute in [
            "secrets",
            "replaced_token",
            "user",
            "team_keys",
            "checked_at",
        ] {
            assert!(refused.contains(attribute), "{function}: {attribute}");
        }
    }
}

/// The namespace of the stack's own metrics.
const NAMESPACE: &str = "EdgeRelay/edge-relay";

/// A metric with its dimensions.
type Metric = (String, String, BTreeMap<String, String>);

/// What AWS itself emits, by the names of the dimensions.
fn is_of_aws((namespace, metric, dimensions): &Metric) -> bool {
    let names: Vec<_> = dimensions.keys().map(String::as_str).collect();
    matches!(
        (namespace.as_str(), metric.as_str(), names.as_slice()),
        // SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS".
        (
            "AWS/SQS",
            "ApproximateNumberOfMessagesVisible" | "ApproximateAgeOfOldestMessage",
            ["QueueName"]
        )
        // Lambda Developer Guide, "Types of metrics for Lambda functions".
        | ("AWS/Lambda", "Errors" | "Throttles" | "Duration", ["FunctionName"])
        // API Gateway Developer Guide, "Monitor CloudWatch metrics for HTTP APIs".
        | ("AWS/ApiGateway", "4xx" | "5xx" | "Count", ["ApiId", "Method", "Resource", "Stage"])
    )
}

/// The metrics of an alarm, or of one in its list.
fn of_alarm(alarm: &Value) -> Vec<Metric> {
    let one = |metric: &Value| {
        let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
        let dimensions = dimensions.map(|d| (text(&d["Name"]), text(&d["Value"])));
        let (namespace, name) = (text(&metric["Namespace"]), text(&metric["MetricName"]));
        (namespace, name, dimensions.collect())
    };
    match alarm["Metrics"].as_array() {
        None => vec![one(alarm)],
        Some(all) => (all.iter().map(|m| &m["MetricStat"]["Metric"]))
            .filter(|metric| !metric.is_null())
            .map(one)
            .collect(),
    }
}

/// The metrics of a dashboard.
fn of_dashboard(template: &Template) -> Vec<Metric> {
    let properties = template.properties("Dashboard");
    let body: Value = serde_json::from_str(properties["DashboardBody"].as_str().unwrap()).unwrap();
    let mut found = Vec::new();
    for widget in body["widgets"].as_array().unwrap() {
        let metrics = widget["properties"]["metrics"].as_array();
        for metric in metrics.into_iter().flatten() {
            let metric = metric.as_array().unwrap().iter().filter(|m| m.is_string());
            let texts: Vec<_> = metric.map(text).collect();
            let dimensions = texts[2..].chunks(2).map(|d| (d[0].clone(), d[1].clone()));
            let dimensions = dimensions.collect();
            found.push((texts[0].clone(), texts[1].clone(), dimensions));
        }
    }
    found
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn each_metric_has_one_filter_in_the_log_of_each_function_that_emits_it() {
    let filters = Filter::all(&template());
    let mut found: Vec<_> = (filters.iter())
        .map(|filter| (filter.metric.as_str(), filter.function.as_str()))
        .collect();
    let mut expected: Vec<_> = (METRICS.iter())
        .flat_map(|metric| metric.from.iter().map(move |from| (metric.name, *from)))
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let mut patterns = BTreeMap::new();
    for filter in &filters {
        let name = filter.metric.as_str();
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(filter.namespace, NAMESPACE, "{name}");
        assert_eq!(filter.unit, format!("{:?}", metric.unit), "{name}");
        let dimension = metric.dimension.map(|dimension| {
            let field = format!("$.{}", dimension.to_lowercase());
            (dimension.to_owned(), field)
        });
        assert_eq!(filter.dimensions, BTreeMap::from_iter(dimension), "{name}");
        // The alarms have to see that there is no line.
        assert!(!filter.has_default, "{name}");
        // CloudWatch takes values and dimensions from the fields of the pattern.
        let taken = filter.dimensions.values().chain([&filter.value]);
        for field in taken.filter(|field| field.starts_with('$')) {
            assert!(filter.pattern.contains(&format!("{field} ")), "{name}");
        }
        // It is the same in each log.
        let pattern = patterns.entry(name).or_insert(&filter.pattern);
        assert_eq!(*pattern, &filter.pattern, "{name}");
    }
}

/// The samples that a line stands for, by its message and its members.
fn expected_samples(line: &Value) -> BTreeSet<Sample> {
    let message = text(&line["message"]);
    let is_delivered = message == "delivered";
    let is_attempt = is_delivered || message == "could not deliver";
    let is_gone = is_attempt && line["outcome"] == "gone";
    let is_end = is_delivered || is_gone || message.starts_with("dead-lettered event ");
    let value = |metric: &str| match metric {
        "Accepted" => (message == "accepted").then_some(1),
        "Attempts" => is_attempt.then_some(1),
        "Deliveries" => is_end.then_some(1),
        "DeliveryLatency" if is_delivered => line["latency"].as_i64(),
        "DeliveryLatency" => None,
        // Any other metric is a member of its own name.
        name => line[name].as_i64(),
    };
    let samples = METRICS.iter().filter_map(|metric| {
        let dimension = metric.dimension.map(|name| {
            let value = line[name.to_lowercase()].as_str();
            (name.to_owned(), value.unwrap_or_default().to_owned())
        });
        Some(Sample {
            metric: metric.name.to_owned(),
            dimensions: dimension.into_iter().collect(),
            value: value(metric.name)?,
        })
    });
    samples.collect()
}

/// What the filters take from a line; the same metric is taken alike from each log.
fn samples(filters: &[Filter], line: &Value) -> BTreeSet<Sample> {
    (filters.iter())
        .filter_map(|filter| filter.sample(line))
        .collect()
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn the_filters_take_from_each_line_what_it_says() {
    let filters = Filter::all(&template());
    let mut found = BTreeSet::new();
    for line in noted(LOGGED) {
        let samples = samples(&filters, &line);
        assert_eq!(samples, expected_samples(&line), "{line}");
        found.extend(samples.into_iter().map(|sample| sample.metric));
    }
    for metric in METRICS {
        let name = metric.name;
        assert!(
            found.contains(name),
            "no test made a function emit `{name}`"
        );
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn every_alarm_and_every_graph_is_about_a_metric_that_exists() {
    let template = template();
    let filters = Filter::all(&template);
    let emitted: BTreeSet<Metric> = (noted(LOGGED).iter())
        .flat_map(|line| samples(&filters, line))
        .map(|sample| (NAMESPACE.to_owned(), sample.metric, sample.dimensions))
        .collect();
    let mut watched: Vec<(String, Metric)> = Vec::new();
    for name in template.named("AWS::CloudWatch::Alarm") {
        let metrics = of_alarm(&template.properties(name));
        assert!(!metrics.is_empty(), "{name}");
        watched.extend(metrics.into_iter().map(|metric| (name.to_owned(), metric)));
    }
    let drawn = of_dashboard(&template).into_iter();
    watched.extend(drawn.map(|metric| ("Dashboard".to_owned(), metric)));
    for (by, metric) in watched {
        let exists = is_of_aws(&metric) || emitted.contains(&metric);
        assert!(exists, "{by}: {metric:?}");
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn every_alarm_has_a_description_and_a_runbook() {
    let mut template = template();
    template.set("AlarmEmail", "ops@example.com");
    let operations = include_str!("../../docs/operations.md");
    let alarms = template.named("AWS::CloudWatch::Alarm");
    for name in &alarms {
        let alarm = template.properties(name);
        let says = alarm["AlarmDescription"].as_str().unwrap();
        let is_long = says.split(". ").count() >= 2 && says.len() > 100;
        assert!(is_long, "{name}: {says}");
        assert_eq!(alarm["AlarmActions"], json!(["AlarmTopic"]), "{name}");
        let heading = operations
            .lines()
            .any(|line| line.starts_with("### ") && line.split('`').any(|part| part == *name));
        assert!(heading, "docs/operations.md has no runbook for `{name}`");
        // It is on the dashboard.
        let dashboard = template.properties("Dashboard")["DashboardBody"].to_string();
        assert!(dashboard.contains(&format!("{name}.Arn")), "{name}");
        // A sum with a metric that has no datapoint has none either.
        let parts = alarm["Metrics"].as_array().into_iter().flatten();
        for expression in parts.filter_map(|part| part["Expression"].as_str()) {
            let bare = expression.replace("FILL(", "").replace("DIFF(", "");
            let is_filled = expression.contains("FILL(") || bare.len() + 5 == expression.len();
            assert!(is_filled, "{name}: {expression}");
        }
    }
    // CloudWatch has ten for nothing, counted by metric.
    let metrics = alarms
        .iter()
        .map(|name| of_alarm(&template.properties(name)).len());
    assert!(metrics.sum::<usize>() <= 10);
    for function in FUNCTIONS {
        let group = template.properties(&format!("{}DeploymentGroup", resource(function)));
        // The function's own errors alone: a worker that rejects says nothing about a new version.
        let watched = json!([{"Name": format!("{}Errors", resource(function))}]);
        assert_eq!(group["AlarmConfiguration"]["Alarms"], watched);
        assert_eq!(
            group["DeploymentConfigName"],
            "CodeDeployDefault.LambdaAllAtOnce"
        );
        let alias = template.raw(&format!("{}Aliaslive", resource(function)));
        let hook = &alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["BeforeAllowTrafficHook"];
        assert_eq!(*hook, json!({"Ref": "Preflight"}));
        assert_eq!(group["AutoRollbackConfiguration"]["Enabled"], true);
    }
}

/// The description of a function's version.
fn version(template: &Template, function: &str) -> String {
    let prefix = format!("{}Version", resource(function));
    let versions = template.named("AWS::Lambda::Version");
    let names: Vec<_> = versions
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .collect();
    let [name] = names.as_slice() else {
        panic!("{function} has the versions {names:?}");
    };
    let alias = template.raw(&format!("{}Aliaslive", resource(function)));
    let published = json!({"Fn::GetAtt": [name, "Version"]});
    assert_eq!(
        alias["Properties"]["FunctionVersion"], published,
        "{function}"
    );
    text(&template.properties(name)["Description"])
}

/// CloudFormation replaces a version, and so publishes a new one, when its description changes (its reference,
/// `AWS::Lambda::Version`). Lambda publishes none where the function is as it was, and CloudFormation takes that for a failure.
#[test]
#[ignore = "needs the translated template: .ci/run"]
fn a_changed_parameter_leads_to_a_new_version_of_each_function_that_it_changes_and_of_no_other() {
    let before = template();
    let mut effective = BTreeSet::new();
    for name in before.parameters() {
        let parameter = before.parameter(&name);
        let is_another = |value: &&Value| as_text(value) != as_text(&parameter["Default"]);
        let another = match (
            parameter["AllowedValues"].as_array(),
            parameter["Type"].as_str(),
        ) {
            (Some(allowed), _) => allowed.iter().find(is_another).unwrap().clone(),
            (None, Some("Number")) => (parameter["Default"].as_u64().unwrap() + 1).into(),
            _ => "another".into(),
        };
        let mut after = template();
        after.set(&name, another);
        for function in FUNCTIONS {
            let [was, is] = [&before, &after].map(|t| t.properties(&resource(function)));
            let [described, describes] = [&before, &after].map(|t| version(t, function));
            assert_eq!(was != is, described != describes, "{function}: {name}");
            if was != is {
                effective.insert(name.clone());
            }
        }
    }
    let expected = [
        "Firewall",
        "GroupFailoverSeconds",
        "MailboxSeconds",
        "MembershipSeconds",
        "MemorySize",
        "RestoredTable",
        "Tracing",
        "WorkersPerUser",
        "WorkersPerWorkspace",
        "Workspaces",
    ];
    assert_eq!(effective, expected.map(str::to_owned).into());
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn the_longest_settings_fit_into_the_description_of_a_version() {
    let mut template = template();
    for name in template.parameters() {
        let parameter = template.parameter(&name).clone();
        if let Some(most) = parameter["MaxValue"].as_u64() {
            template.set(&name, most);
        }
        if let Some(longest) = parameter["MaxLength"].as_u64() {
            template.set(&name, "w".repeat(longest.try_into().unwrap()));
        }
    }
    for function in FUNCTIONS {
        let length = version(&template, function).len();
        assert!(length <= 256, "{function}: {length}");
    }
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn with_a_firewall_everything_comes_through_it() {
    let without = template();
    let firewall = ["Distribution", "FirewallAcl", "LinearAddresses"];
    let there = |template: &Template| firewall.map(|name| template.is_there(name));
    assert_eq!(there(&without), [false; 3]);
    let closed = |template: &Template| {
        let server = template.properties("Api")["Body"]["servers"][0].clone();
        server["x-amazon-apigateway-endpoint-configuration"]["disableExecuteApiEndpoint"].clone()
    };
    assert_eq!(closed(&without), false);

    let mut with = template();
    for (name, value) in [
        ("Firewall", "rate"),
        ("DomainName", "relay.example.com"),
        (
            "CertificateArn",
            "arn:aws:acm:us-east-1:000000000000:certificate/1",
        ),
        ("HostedZoneId", "Z1"),
    ] {
        with.set(name, value);
    }
    let rules = |template: &Template| {
        let acl = template.properties("FirewallAcl");
        let rules = acl["Rules"].as_array().unwrap().iter();
        rules.map(|rule| text(&rule["Name"])).collect::<Vec<_>>()
    };
    assert_eq!(there(&with), [true, true, false]);
    assert_eq!(rules(&with), ["rate"]);
    assert_eq!(closed(&with), true);
    for function in ["ingest", "register"] {
        let shown = |template: &Template| environment(template, function)["ORIGIN_SECRET"].clone();
        assert_eq!(shown(&without), "");
        assert_eq!(shown(&with), "{{resolve:secretsmanager:OriginSecret}}");
    }
    let distribution = &with.properties("Distribution")["DistributionConfig"];
    assert_eq!(distribution["Aliases"], json!(["relay.example.com"]));
    assert_eq!(
        distribution["Origins"][0]["DomainName"],
        "Domain.RegionalDomainName"
    );
    assert_eq!(distribution["WebACLId"], "FirewallAcl.Arn");
    let record = with.properties("DomainRecord");
    assert_eq!(record["AliasTarget"]["DNSName"], "Distribution.DomainName");

    with.set("Firewall", "linear");
    assert_eq!(there(&with), [true; 3]);
    assert_eq!(rules(&with), ["rate", "linear"]);
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn a_restored_table_takes_the_place_of_the_stacks_own() {
    let mut restored = template();
    restored.set("RestoredTable", "edge-relay-restored");
    let table = "arn:aws:dynamodb:us-east-1:000000000000:table/edge-relay-restored";
    for function in FUNCTIONS {
        assert_eq!(
            environment(&restored, function)["TABLE_NAME"],
            "edge-relay-restored"
        );
        let role = format!("{}Role", resource(function));
        let moved = |(action, resource): (String, String)| {
            let own = local::dynamodb::TABLE;
            let is_of_table = resource == own || resource.starts_with(&format!("{own}/index/"));
            let resource = if is_of_table {
                resource.replacen(own, table, 1)
            } else {
                resource
            };
            (action, resource)
        };
        let own = allowed(&template(), &role).into_iter().map(moved).collect();
        assert_eq!(allowed(&restored, &role), own, "{function}");
    }
    let name = &restored.outputs()["TableName"]["Value"];
    assert_eq!(name, "edge-relay-restored");
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn the_architecture_is_one_constant() {
    let text = include_str!("../../template.yaml");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("x86_64"))
        .collect();
    assert_eq!(lines, ["    Architectures: [x86_64]"]);
    for function in FUNCTIONS {
        let properties = template().properties(&resource(function));
        assert_eq!(properties["Architectures"], json!(["x86_64"]), "{function}");
    }
    let operations = include_str!("../../docs/operations.md");
    assert!(
        operations.contains("Architectures: [arm64]"),
        "how it is changed"
    );
}

#[test]
#[ignore = "needs the translated template: .ci/run"]
fn the_outputs_name_the_next_steps() {
    let mut template = template();
    template.refer("Api", "a1b2c3");
    let url = "https://a1b2c3.execute-api.us-east-1.amazonaws.com";
    let output = |template: &Template, name: &str| text(&template.outputs()[name]["Value"]);
    let webhooks = output(&template, "WebhookUrl");
    assert_eq!(webhooks, format!("{url}/webhooks/linear"));
    assert_eq!(output(&template, "RelayUrl"), url);
    let dashboard = output(&template, "DashboardUrl");
    assert!(dashboard.ends_with("dashboards:name=edge-relay"));
    template.set("DomainName", "relay.example.com");
    let certificate = "arn:aws:acm:us-east-1:000000000000:certificate/x";
    template.set("CertificateArn", certificate);
    assert_eq!(output(&template, "RelayUrl"), "https://relay.example.com");
}
