//! `service`: starts the agent with the machine, by a systemd user unit on Linux or a launchd agent on macOS.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, FromArgMatches as _, Subcommand};

use serde_json::json;
use tokio::process::Command;

use super::{print, print_json};
use crate::config::{Settings, for_service};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::replace;
use crate::membership::linear_token;
use crate::output::{hint, info, warn};
use crate::registration::Registration;
use crate::report::{self, Status};
use crate::trust;

const UNIT: &str = "edge-agent.service";
const LABEL: &str = "dev.edge-relay.edge-agent";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Write the service, and start it now and at every login
    Install(Install),
    /// Stop the service, and remove it
    Uninstall {
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show whether the service is installed and running
    Status,
}

/// The arguments of `install`.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Only print what would be written and run
    #[arg(long)]
    dry_run: bool,
    /// Arguments for `up`, in addition to the settings file
    #[arg(last = true, value_name = "UP ARGUMENTS")]
    up: Vec<String>,
}

/// The service manager of this platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceManager {
    Systemd,
    Launchd,
}

impl ServiceManager {
    fn of_this_platform() -> Result<Self, Failure> {
        if cfg!(target_os = "macos") {
            Ok(Self::Launchd)
        } else if cfg!(target_os = "linux") {
            Ok(Self::Systemd)
        } else {
            Err(Failure::Configuration(
                "services are kept by systemd on Linux and launchd on macOS; here, start `edge-agent up` yourself"
                    .to_owned(),
            ))
        }
    }

    fn file(self) -> Result<PathBuf, Failure> {
        use etcetera::BaseStrategy as _;
        let base = etcetera::choose_base_strategy()
            .map_err(|error| Failure::Configuration(error.to_string()))?;
        Ok(match self {
            Self::Systemd => base.config_dir().join("systemd/user").join(UNIT),
            Self::Launchd => base
                .home_dir()
                .join(format!("Library/LaunchAgents/{LABEL}.plist")),
        })
    }

    fn text(self, plan: &ServicePlan) -> String {
        match self {
            Self::Systemd => unit(plan),
            Self::Launchd => plist(plan),
        }
    }

    /// The commands that start the service once its file is written.
    fn start_commands(self, file: &Path) -> Vec<Vec<String>> {
        match self {
            Self::Systemd => vec![
                words("systemctl --user daemon-reload"),
                words(&format!("systemctl --user enable {UNIT}")),
                words(&format!("systemctl --user restart {UNIT}")),
            ],
            Self::Launchd => vec![vec![
                "launchctl".to_owned(),
                "bootstrap".to_owned(),
                domain(),
                file.display().to_string(),
            ]],
        }
    }

    /// The commands that stop the service before its file is removed or overwritten.
    fn stop_commands(self) -> Vec<Vec<String>> {
        match self {
            Self::Systemd => vec![words(&format!("systemctl --user disable --now {UNIT}"))],
            Self::Launchd => vec![words(&format!("launchctl bootout {}/{LABEL}", domain()))],
        }
    }

    /// The command that succeeds if the service runs.
    fn status_command(self) -> Vec<String> {
        match self {
            Self::Systemd => words(&format!("systemctl --user is-active --quiet {UNIT}")),
            Self::Launchd => words(&format!("launchctl print {}/{LABEL}", domain())),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// launchd's domain for this user's logins.
fn domain() -> String {
    #[cfg(unix)]
    return format!("gui/{}", rustix::process::getuid().as_raw());
    #[cfg(not(unix))]
    return String::new();
}

/// Quoted as systemd.syntax(7) has it. It holds no control character.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%");
    format!("\"{escaped}\"")
}

/// The command of a service, its working directory, and its variables, which are those of this shell.
struct ServicePlan {
    command: Vec<String>,
    directory: String,
    variables: Vec<(String, String)>,
    log: String,
}

impl ServicePlan {
    /// Refuses what would end a line of a unit, or cannot be written in a property list.
    fn verify(&self) -> Result<(), Failure> {
        let variables = (self.variables.iter()).flat_map(|(name, value)| [name, value]);
        let all = (self.command.iter())
            .chain([&self.directory, &self.log])
            .chain(variables);
        for text in all {
            if text.chars().any(char::is_control) {
                return Err(Failure::Configuration(format!(
                    "a service cannot have an argument, a path or a variable with a control character: `{text}`"
                )));
            }
        }
        Ok(())
    }
}

fn unit(plan: &ServicePlan) -> String {
    let command: Vec<_> = (plan.command.iter())
        // `$` is a variable in a command alone (systemd.service(5)).
        .map(|argument| quoted(argument).replace('$', "$$"))
        .collect();
    let variables: String = (plan.variables.iter())
        .map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}"))))
        .collect();
    format!(
        "[Unit]\n\
         Description=edge-agent: Linear's webhooks on this machine\n\
         Documentation=man:systemd.service(5)\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         WorkingDirectory={}\n\
         {variables}\
         ExecReload=kill -HUP $MAINPID\n\
         Restart=always\n\
         RestartSec=5\n\
         # Wrong settings and a refusal do not mend themselves.\n\
         RestartPreventExitStatus=2 4\n\
         # The agent tells running handlers and the tunnel to end. Handlers have 10 s.\n\
         KillMode=mixed\n\
         TimeoutStopSec=20\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        command.join(" "),
        plan.directory.replace('%', "%%"),
    )
}

fn plist(plan: &ServicePlan) -> String {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let arguments: String = (plan.command.iter())
        .map(|argument| format!("    <string>{}</string>\n", escaped(argument)))
        .collect();
    let variables: String = (plan.variables.iter())
        .map(|(name, value)| {
            format!(
                "    <key>{}</key>\n    <string>{}</string>\n",
                escaped(name),
                escaped(value)
            )
        })
        .collect();
    let [directory, log] = [&plan.directory, &plan.log].map(|text| escaped(text));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n\
         <dict>\n  \
         <key>Label</key>\n  <string>{LABEL}</string>\n  \
         <key>ProgramArguments</key>\n  <array>\n{arguments}  </array>\n  \
         <key>WorkingDirectory</key>\n  <string>{directory}</string>\n  \
         <key>EnvironmentVariables</key>\n  <dict>\n{variables}  </dict>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  \
         <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n  \
         <key>ThrottleInterval</key>\n  <integer>10</integer>\n  \
         <key>ExitTimeOut</key>\n  <integer>20</integer>\n  \
         <key>StandardErrorPath</key>\n  <string>{log}</string>\n\
         </dict>\n\
         </plist>\n"
    )
}

pub(crate) async fn run(context: &Context, service: Service) -> Result<(), Failure> {
    let manager = ServiceManager::of_this_platform()?;
    match service {
        Service::Install(install) => self::install(context, manager, install).await,
        Service::Uninstall { dry_run } => uninstall(context, manager, dry_run).await,
        Service::Status => status(context, manager).await,
    }
}

/// The command with absolute paths, because a service starts in another directory.
#[expect(
    clippy::disallowed_methods,
    reason = "PATH is not a setting: the service is to find what this shell finds"
)]
fn planned(
    context: &Context,
    manager: ServiceManager,
    up: Vec<String>,
) -> Result<ServicePlan, Failure> {
    let text = |path: std::ffi::OsString| {
        (path.into_string()).map_err(|_| Failure::Configuration("a path is not UTF-8".to_owned()))
    };
    let whole = |path: &Path| {
        let path = std::path::absolute(path).context("a path cannot be made absolute")?;
        text(path.into_os_string())
    };
    let mut command = vec![whole(&stable_program()?)?, "up".to_owned()];
    if let Some(file) = &context.file {
        command.extend(["--config".to_owned(), whole(file)?]);
    }
    command.extend(["--data".to_owned(), whole(context.directory.directory())?]);
    let log = whole(&context.directory.directory().join("edge-agent.log"))?;
    if manager == ServiceManager::Launchd {
        command.extend(["--launchd-log".to_owned(), log.clone()]);
    }
    command.extend(up);
    let path = text(std::env::var_os("PATH").unwrap_or_default())?;
    let plan = ServicePlan {
        command,
        directory: whole(Path::new("."))?,
        variables: std::iter::once(("PATH".to_owned(), path))
            .chain(for_service())
            .collect(),
        log,
    };
    plan.verify()?;
    Ok(plan)
}

/// The path by which this program stays: that in PATH, where it leads to this program. Package managers have the program itself
/// in a directory of its version, which goes with the next one.
fn stable_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let in_path = (program.file_name()).and_then(|name| which::which(name).ok());
    let is_it = |path: &PathBuf| {
        let both = [path, &program].map(|path| path.canonicalize().ok());
        both[0].is_some() && both[0] == both[1]
    };
    Ok(in_path.filter(is_it).unwrap_or(program))
}

async fn install(
    context: &Context,
    manager: ServiceManager,
    install: Install,
) -> Result<(), Failure> {
    validate(context, &install)?;
    let file = manager.file()?;
    let text = manager.text(&planned(context, manager, install.up)?);
    let commands = manager.start_commands(&file);
    if install.dry_run {
        return plan(context, "write", &file, Some(&text), &commands);
    }
    let was_there = file.exists();
    let before = process(context).map(|status| status.pid);
    let cannot = || format!("cannot write `{}`", file.display());
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).with_context(cannot)?;
    std::fs::create_dir_all(context.directory.directory()).with_context(cannot)?;
    if was_there && manager == ServiceManager::Launchd {
        // launchd takes a label once.
        for command in manager.stop_commands() {
            let _ = call(&command).await;
        }
    }
    // A proxy's address may hold a password.
    replace(&file, text.as_bytes()).with_context(cannot)?;
    for command in &commands {
        if let Err(failure) = call(command).await {
            if !was_there {
                let _ = std::fs::remove_file(&file);
            }
            return Err(failure);
        }
    }
    if let Err(failure) = is_ready(context, before).await {
        if was_there {
            return Err(failure);
        }
        for command in manager.stop_commands() {
            let _ = call(&command).await;
        }
        let _ = std::fs::remove_file(&file);
        return Err(failure);
    }
    info(format_args!(
        "`{}` is written, and edge-agent runs",
        file.display()
    ));
    hint_at_lingering(manager).await;
    Ok(())
}

/// How long a service may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// The process of the agent that runs, if one does.
fn process(context: &Context) -> Option<Status> {
    report::read(&context.directory.report()).filter(|_| context.directory.is_in_use())
}

/// Waits until another process than `before` runs and is registered. One that runs and is not yet, goes on trying.
async fn is_ready(context: &Context, before: Option<u32>) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let running = process(context).filter(|status| Some(status.pid) != before);
        let is_late = began.elapsed() > READY_TIMEOUT;
        match running {
            Some(status) if status.state.is_some() => return Ok(()),
            Some(status) if is_late => {
                let problem = status
                    .problem
                    .unwrap_or_else(|| "it is not registered yet".to_owned());
                warn(format_args!("it runs, but: {problem}"));
                return Ok(());
            }
            None if is_late => {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "the service was started and does not run, and is removed again if it was not there before: `journalctl --user -u {UNIT}`, or \
                     edge-agent.log in `{}`, has the reason",
                    context.directory.directory().display()
                )));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Refuses to install a service that could not start: the settings are read as the service will read them.
fn validate(context: &Context, install: &Install) -> Result<(), Failure> {
    let flags = flags(&install.up)?;
    let mut settings = flags.clone().over(context.settings.clone());
    settings.project = (context.project.clone()).filter(|_| flags.relay.is_none());
    if let Some(variable) = settings.header_variables().next() {
        return Err(Failure::Configuration(format!(
            "a service does not see the variable `{variable}` that a `header` names: use `headers-file`"
        )));
    }
    let config = settings.config(context.file.clone())?;
    trust::verify(&context.directory, &config)?;
    if config.rules.is_empty() {
        return Err(Failure::Configuration(
            "a service needs a handler, since its stdout is not read: set `to`, `exec` or a `[[handler]]`"
                .to_owned(),
        ));
    }
    let registration = Registration::read(&context.directory.registration())?;
    let is_registered = registration
        .is_some_and(|known| known.relay == config.relay.as_str() && known.name == config.name);
    if !is_registered && config.linear_token_file.is_none() {
        // A service does not have this shell's environment.
        linear_token(&config)?;
        return Err(Failure::Configuration(
            "a service does not see LINEAR_TOKEN: set `linear-token-file`, or run `edge-agent up` once to register"
                .to_owned(),
        ));
    }
    if config.linear_token_file.is_some() {
        linear_token(&config)?;
    }
    Ok(())
}

/// The flags of `up`.
fn flags(up: &[String]) -> Result<Settings, Failure> {
    let wrong = |error: clap::Error| Failure::Configuration(error.to_string());
    let command = Settings::augment_args(clap::Command::new("up").no_binary_name(true));
    let matches = command.try_get_matches_from(up).map_err(wrong)?;
    Settings::from_arg_matches(&matches).map_err(wrong)
}

/// systemd ends a user's services with the last session, unless the user lingers.
async fn hint_at_lingering(manager: ServiceManager) {
    if manager != ServiceManager::Systemd {
        return;
    }
    let asked = Command::new("loginctl")
        .args(["show-user", "--property=Linger", "--value"])
        .arg(whoami())
        .stdin(Stdio::null())
        .output()
        .await;
    let lingers = asked.is_ok_and(|output| output.stdout.starts_with(b"yes"));
    if !lingers {
        hint("it ends when you log out: `loginctl enable-linger` keeps it, and starts it at boot");
    }
}

/// The id of this user.
fn whoami() -> String {
    #[cfg(unix)]
    return rustix::process::getuid().as_raw().to_string();
    #[cfg(not(unix))]
    return String::new();
}

async fn uninstall(
    context: &Context,
    manager: ServiceManager,
    dry_run: bool,
) -> Result<(), Failure> {
    let file = manager.file()?;
    if dry_run {
        return plan(context, "remove", &file, None, &manager.stop_commands());
    }
    if !file.exists() {
        return Err(Failure::Unhealthy(format!(
            "it is not installed: there is no `{}`",
            file.display()
        )));
    }
    for command in manager.stop_commands() {
        call(&command).await?;
    }
    std::fs::remove_file(&file).with_context(|| format!("cannot remove `{}`", file.display()))?;
    info("it is no longer installed; the registration stays: `edge-agent forget` ends it");
    Ok(())
}

async fn status(context: &Context, manager: ServiceManager) -> Result<(), Failure> {
    let file = manager.file()?;
    let installed = file.exists();
    let running = installed && call(&manager.status_command()).await.is_ok();
    if context.json {
        print_json(&json!({ "installed": installed, "running": running, "file": file }))?;
    } else {
        let text = match (installed, running) {
            (false, _) => "not installed".to_owned(),
            (true, true) => format!("running, from {}", file.display()),
            (true, false) => format!("not running, though there is {}", file.display()),
        };
        print(format!("{text}\n").as_bytes())?;
    }
    if running {
        Ok(())
    } else {
        Err(Failure::Unhealthy("the service is not running".to_owned()))
    }
}

fn plan(
    context: &Context,
    does: &str,
    file: &Path,
    text: Option<&str>,
    commands: &[Vec<String>],
) -> Result<(), Failure> {
    if context.json {
        return print_json(&json!({ does: file, "text": text, "run": commands }));
    }
    let mut plan = format!("{does} {}\n", file.display());
    if let Some(text) = text {
        plan.push_str(&format!("\n{text}\n"));
    }
    for command in commands {
        plan.push_str(&format!("run {}\n", command.join(" ")));
    }
    print(plan.as_bytes())
}

/// Runs a command of the system.
async fn call(command: &[String]) -> Result<(), Failure> {
    let line = command.join(" ");
    let [program, arguments @ ..] = command else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run `{line}`"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Failed(anyhow::anyhow!(
        "`{line}` failed: {}",
        said.trim().lines().last().unwrap_or("it did not say why")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> ServicePlan {
        ServicePlan {
            command: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            directory: "/home/a&b/100%".to_owned(),
            variables: vec![("PATH".to_owned(), "/a b/bin:/usr/bin".to_owned())],
            log: "/home/a&b/log".to_owned(),
        }
    }

    #[test]
    fn a_unit_takes_its_arguments_as_they_are() {
        let unit = unit(&plan(&[
            "/opt/edge agent/bin",
            "up",
            "--name",
            "50% \"of\" $it\\",
        ]));
        for line in [
            "ExecStart=\"/opt/edge agent/bin\" \"up\" \"--name\" \"50%% \\\"of\\\" $$it\\\\\"\n",
            "WorkingDirectory=/home/a&b/100%%\n",
            "Environment=\"PATH=/a b/bin:/usr/bin\"\n",
        ] {
            assert!(unit.contains(line), "{unit}");
        }
    }

    #[test]
    fn nothing_can_add_a_line_to_a_unit() {
        let mut hostile = plan(&[
            "/opt/edge-agent",
            "up",
            "--name",
            "a\nExecStartPre=/bin/evil",
        ]);
        assert!(hostile.verify().is_err());
        hostile.command.pop();
        hostile.directory.push_str("\r[Service]");
        assert!(hostile.verify().is_err());
        assert!(plan(&["/opt/\u{fc}", "\"quoted\" $it"]).verify().is_ok());
    }

    #[test]
    fn a_plist_takes_its_arguments_as_they_are() {
        insta::assert_snapshot!(plist(&plan(&["/opt/edge-agent", "up", "a&b<c>"])));
    }
    /// launchd is on macOS alone: this reads the property list in its place.
    #[test]
    fn a_plist_is_read_as_it_was_planned() {
        let wanted = plan(&["/opt/a&b/edge-agent", "up", "<Issue>", "\"it's\" ünï"]);
        let read = plist::Value::from_reader_xml(plist(&wanted).as_bytes()).unwrap();
        let read = read.as_dictionary().unwrap();
        let text = |name: &str| read[name].as_string().unwrap();
        let arguments = read["ProgramArguments"].as_array().unwrap();
        let arguments: Vec<_> = (arguments.iter())
            .map(|argument| argument.as_string().unwrap())
            .collect();
        assert_eq!(arguments, wanted.command);
        assert_eq!(text("Label"), LABEL);
        assert_eq!(text("WorkingDirectory"), wanted.directory);
        assert_eq!(text("StandardErrorPath"), wanted.log);
        let variables = read["EnvironmentVariables"].as_dictionary().unwrap();
        let [(name, value)] = &wanted.variables[..] else {
            panic!("one variable was planned");
        };
        assert_eq!(variables[name].as_string(), Some(value.as_str()));
        // As launchd.plist(5) has their types.
        assert_eq!(read["RunAtLoad"].as_boolean(), Some(true));
        let restart = read["KeepAlive"].as_dictionary().unwrap();
        assert_eq!(restart["SuccessfulExit"].as_boolean(), Some(false));
        for name in ["ThrottleInterval", "ExitTimeOut"] {
            assert!(read[name].as_unsigned_integer().is_some(), "{name}");
        }
    }
}
