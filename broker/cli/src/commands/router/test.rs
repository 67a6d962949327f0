//! `router test`: try a module on cases in a file, with the broker's own engine but without a broker.
//!
//! The cases become a topology of one router exchange with a queue for each target, and each message takes the way it
//! takes in the broker: through [`Routes::route`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use clap::Args;
use pointsman_core::catalog::VersionSpec;
use pointsman_core::input::{Publish, Verdict};
use pointsman_core::topology::{Binding, Exchange, Queue, Router, Target, Topology, Vhost};
use pointsman_core::{ExchangeId, QueueId, RouterId, VhostId};
use pointsman_protocol::DEFAULT_VHOST;
use pointsman_protocol::admin::{ExchangeSpec, QueueSpec};
use pointsman_protocol::frame;
use pointsman_router_host::{CompileMode, Host, HostOptions, Incoming, ModuleInfo, ModuleLimits, Routes};
use pointsman_sdk::{HeaderValue, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::config;
use super::load::read_module;
use crate::commands::App;
use crate::connect;
use crate::error::CliError;
use crate::human;
use crate::output::Row;
use crate::progress::Progress;

/// What to try on what.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The compiled module
    module: PathBuf,
    /// The cases, in JSON; `pointsman router new` writes an example
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,
    /// A file with the configuration, instead of the one in the cases
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    /// The configuration: text, or any other JSON, which is handed over as its text.
    #[serde(default)]
    config: Json,
    /// The binding keys of the exchange.
    targets: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    message: MessageSpec,
    expect: Expect,
}

/// A message; text is the body as it is, any other JSON its text.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MessageSpec {
    routing_key: String,
    headers: serde_json::Map<String, Json>,
    body: Json,
    priority: u8,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
}

/// What should become of it.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Expect {
    /// To these targets in any order; to none: unroutable.
    Targets(Vec<String>),
    /// Refused with a reason that contains this.
    Rejected(String),
}

/// The JSON form of a result, one for each case.
#[derive(Debug, Serialize)]
struct CaseView {
    name: String,
    passed: bool,
    expected: String,
    got: String,
    /// Time of routing the message once the module was warm, in nanoseconds.
    time_ns: u64,
}

pub(crate) fn run(app: &App, args: &TestArgs) -> Result<(), CliError> {
    let cases = read_cases(&args.cases)?;
    let module = read_module(&args.module)?;
    let settings = match &args.config {
        Some(_) => config(args.config.as_ref(), None)?,
        None => text(&cases.config).into_bytes(),
    };
    let cache = tempfile::tempdir().map_err(|error| CliError::failed("File", error.to_string()))?;
    let host =
        Host::new(options(cache.path())).map_err(|error| CliError::failed("Engine", error.to_string()))?;
    let progress = Progress::new(app.output, "compiling the module", None);
    let info = host.load(&module).map_err(|error| module_error(&error))?;
    let targets: Vec<&str> = cases.targets.iter().map(String::as_str).collect();
    let plan = host
        .try_configure(info.digest, &settings, &targets)
        .map_err(|error| module_error(&error))?;
    drop(progress);
    for name in &plan.unbound {
        app.output.say(&format!(
            "note: the configuration names `{name}`, which is not among the targets"
        ))?;
    }
    let bench = Bench {
        routes: Routes::new(host, Arc::new(topology(&cases.targets, info, settings))),
        targets: cases.targets,
    };
    let results = connect::block_on(async {
        let mut results = Vec::with_capacity(cases.cases.len());
        for case in cases.cases {
            results.push(bench.run(case).await?);
        }
        Ok(results)
    })?;
    app.output.list(&results)?;
    match results.iter().filter(|result| !result.passed).count() {
        0 => Ok(()),
        failed => Err(CliError::failed(
            "CasesFailed",
            format!("{failed} of {} cases failed", results.len()),
        )),
    }
}

fn read_cases(path: &Path) -> Result<Cases, CliError> {
    let text = std::fs::read(path).map_err(|error| CliError::file("read the cases", path, &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        CliError::usage(format!("the cases in {} do not parse: {error}", path.display()))
            .hint("`pointsman router new NAME` writes a cases.json to start from")
    })
}

fn options(cache: &Path) -> HostOptions {
    HostOptions {
        cache_dir: cache.to_owned(),
        // The compiled module lives in a folder of this run only.
        mac_key: [0; 32],
        compile: CompileMode::InProcess,
        limits: ModuleLimits::default(),
    }
}

fn module_error(error: &pointsman_router_host::ModuleError) -> CliError {
    CliError::failed("Module", error.to_string())
}

/// JSON text as it is meant, any other JSON as its text; null is empty.
fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

const EXCHANGE: ExchangeId = ExchangeId(1);
const ROUTER: RouterId = RouterId(1);
const VHOST: VhostId = VhostId(1);
/// Name of the exchange and of the router.
const NAME: &str = "test";

/// One router exchange with one queue for each target, numbered as the targets are.
fn topology(targets: &[String], module: ModuleInfo, config: Vec<u8>) -> Topology {
    let version = VersionSpec {
        digest: module.digest,
        size: module.size,
        interface: module.interface,
        config,
        loaded_at: 0,
    };
    let router = Router {
        id: ROUTER,
        vhost: VHOST,
        name: NAME.to_owned(),
        active: Some(1),
        previous: None,
        next_version: 2,
        versions: [(1_u32, Arc::new(version))].into_iter().collect(),
    };
    let numbered = || (0_u32..).map(QueueId).zip(targets);
    let binding = |(id, target): (QueueId, &String)| {
        (
            Binding {
                key: target.clone(),
                target: Target::Queue(id),
                arguments: Vec::new(),
            },
            (),
        )
    };
    let exchange = Exchange {
        id: EXCHANGE,
        vhost: VHOST,
        spec: ExchangeSpec::router(NAME, NAME),
        alternate: None,
        router: Some(ROUTER),
        quarantine: None,
        bindings: numbered().map(binding).collect(),
    };
    let vhost = Vhost {
        id: VHOST,
        exchanges: [(NAME.to_owned(), EXCHANGE)].into_iter().collect(),
        queues: numbered().map(|(id, target)| (target.clone(), id)).collect(),
        routers: [(NAME.to_owned(), ROUTER)].into_iter().collect(),
    };
    let queue = |(id, target): (QueueId, &String)| {
        (
            id,
            Arc::new(Queue {
                id,
                vhost: VHOST,
                spec: QueueSpec::new(target),
            }),
        )
    };
    Topology {
        vhosts: [(DEFAULT_VHOST.to_owned(), Arc::new(vhost))]
            .into_iter()
            .collect(),
        users: Default::default(),
        exchanges: [(EXCHANGE, Arc::new(exchange))].into_iter().collect(),
        queues: numbered().map(queue).collect(),
        routers: [(ROUTER, Arc::new(router))].into_iter().collect(),
    }
}

/// A module on the bench.
struct Bench {
    routes: Arc<Routes>,
    targets: Vec<String>,
}

impl Bench {
    /// Routes the message twice: the first time may make an instance, the second is measured and must agree.
    async fn run(&self, case: Case) -> Result<CaseView, CliError> {
        let incoming = incoming(&case)?;
        let (first, _) = self.route(incoming.clone()).await?;
        let (second, time) = self.route(incoming).await?;
        let got = self.outcome(&second);
        let same = self.outcome(&first) == got;
        let passed = same && case.expect.fits(&got);
        Ok(CaseView {
            name: case.name,
            passed,
            expected: case.expect.to_string(),
            got: if same {
                got.to_string()
            } else {
                format!("{got}, but another outcome the first time")
            },
            time_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        })
    }

    async fn route(&self, incoming: Incoming) -> Result<(Publish, Duration), CliError> {
        let internal = || CliError::failed("Engine", "the engine lost the message");
        let entry = self.routes.find(DEFAULT_VHOST, NAME).ok_or_else(internal)?;
        let mut out = Vec::new();
        let start = Instant::now();
        self.routes.route(entry, vec![incoming], &mut out).await;
        let took = start.elapsed();
        out.pop().map(|publish| (publish, took)).ok_or_else(internal)
    }

    fn outcome(&self, publish: &Publish) -> Outcome {
        match &publish.verdict {
            Verdict::Deliver => {
                let ids = publish.copies.iter().flat_map(|copy| &copy.queues);
                let names = ids.filter_map(|id| self.targets.get(id.0 as usize).cloned());
                let mut targets: Vec<String> = names.collect();
                targets.sort();
                Outcome::Targets(targets)
            }
            Verdict::Reject(reason) => Outcome::Rejected(reason.clone()),
            Verdict::Quarantine(why) => Outcome::Failed(why.clone()),
            Verdict::Refuse(error) => Outcome::Failed(error.message.clone()),
        }
    }
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Targets(Vec<String>),
    Rejected(String),
    Failed(String),
}

impl Expect {
    fn fits(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Expect::Targets(wanted), Outcome::Targets(got)) => {
                let mut wanted = wanted.clone();
                wanted.sort();
                wanted == *got
            }
            (Expect::Rejected(part), Outcome::Rejected(reason)) => reason.contains(part.as_str()),
            _ => false,
        }
    }
}

fn to_targets(f: &mut std::fmt::Formatter<'_>, targets: &[String]) -> std::fmt::Result {
    if targets.is_empty() {
        f.write_str("unroutable")
    } else {
        write!(f, "to {}", targets.join(", "))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Targets(targets) => to_targets(f, targets),
            Outcome::Rejected(reason) => write!(f, "rejected: {reason}"),
            Outcome::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expect::Targets(targets) => to_targets(f, targets),
            Expect::Rejected(part) => write!(f, "rejected: {part}"),
        }
    }
}

fn incoming(case: &Case) -> Result<Incoming, CliError> {
    let spec = &case.message;
    let mut message = Message::new(text(&spec.body))
        .key(spec.routing_key.clone())
        .priority(spec.priority);
    if let Some(id) = &spec.message_id {
        message = message.message_id(id.clone());
    }
    if let Some(id) = &spec.correlation_id {
        message = message.correlation_id(id.clone());
    }
    if let Some(queue) = &spec.reply_to {
        message = message.reply_to(queue.clone());
    }
    if let Some(content_type) = &spec.content_type {
        message = message.content_type(content_type.clone());
    }
    for (name, value) in &spec.headers {
        message = message.header(name.clone(), header(&case.name, name, value)?);
    }
    let mut content = BytesMut::new();
    frame::put_postcard(&mut content, &message.meta());
    let meta_len = u32::try_from(content.len())
        .map_err(|_| CliError::usage(format!("the message of the case `{}` is too long", case.name)))?;
    content.put_slice(message.body());
    Ok(Incoming {
        sequence: 1,
        content: content.freeze(),
        meta_len,
    })
}

fn header(case: &str, name: &str, value: &Json) -> Result<HeaderValue, CliError> {
    match value {
        Json::Bool(value) => Ok(HeaderValue::from(*value)),
        Json::String(value) => Ok(HeaderValue::from(value.clone())),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Ok(HeaderValue::from(value)),
            (None, Some(value)) => Ok(HeaderValue::from(value)),
            (None, None) => Err(CliError::usage(format!(
                "the header `{name}` of the case `{case}` is no number we know"
            ))),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => Err(CliError::usage(format!(
            "the header `{name}` of the case `{case}` is neither text, number nor truth value"
        ))),
    }
}

impl Row for CaseView {
    const HEADINGS: &'static [&'static str] = &["result", "time", "case", "outcome"];

    fn cells(&self) -> Vec<String> {
        let outcome = match self.passed {
            true => self.got.clone(),
            false => format!("{}; expected {}", self.got, self.expected),
        };
        vec![
            if self.passed { "ok" } else { "FAILED" }.to_owned(),
            human::span(Duration::from_nanos(self.time_ns)),
            self.name.clone(),
            outcome,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_compared_in_any_order_and_rejections_by_a_part_of_the_reason() {
        let targets = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expect = Expect::Targets(targets(&["b", "a"]));
        assert!(expect.fits(&Outcome::Targets(targets(&["a", "b"]))));
        assert!(!expect.fits(&Outcome::Targets(targets(&["a"]))));
        assert!(Expect::Rejected("missing".into()).fits(&Outcome::Rejected("the kind is missing".into())));
        assert!(!Expect::Rejected("missing".into()).fits(&Outcome::Failed("missing".into())));
        assert!(!Expect::Targets(Vec::new()).fits(&Outcome::Failed("trap".into())));
    }

    #[test]
    fn a_misspelt_member_of_the_cases_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cases.json");
        std::fs::write(&path, r#"{"targets":[],"casse":[]}"#).unwrap();
        let Err(CliError::Usage(problem)) = read_cases(&path) else {
            panic!("a wrong file is a usage error");
        };
        assert!(problem.message.contains("casse"), "{}", problem.message);
    }

    #[test]
    fn a_body_and_a_config_are_text_or_the_text_of_json() {
        assert_eq!(text(&Json::Null), "");
        assert_eq!(text(&serde_json::json!("plain")), "plain");
        assert_eq!(text(&serde_json::json!({"a": 1})), "{\"a\":1}");
    }
}
