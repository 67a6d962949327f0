//! `pointsman serve`: a first start that just works, settings, and refusals that say what to do.

use std::process::{Command, Output, Stdio};

use pointsman_sdk::{ErrorCode, QueueSpec};
use pointsman_tests::binary::pointsman;
use pointsman_tests::{Broker, Settings, broker, cli};

use crate::publish;

#[tokio::test]
async fn a_wrong_password_is_refused_by_name() {
    let broker = Broker::start();
    for (user, password) in [("admin", "guess"), ("nobody", broker.password()), ("admin", "")] {
        let error = broker
            .client_builder()
            .credentials(user, password)
            .connect()
            .await
            .err()
            .unwrap();
        assert_eq!(
            error.code(),
            Some(ErrorCode::AuthenticationFailed),
            "{user}: {error}"
        );
    }
}

#[tokio::test]
async fn a_client_trusts_only_the_ca_it_was_given() {
    let (broker, other) = (Broker::start(), Broker::start());
    assert!(
        broker
            .client_builder()
            .ca_file(other.ca())
            .connect()
            .await
            .is_err()
    );
}

#[test]
fn after_the_first_start_the_next_command_on_this_machine_just_works() {
    let broker = Broker::start();
    let status = cli::json(&broker, &["status"]);
    assert_eq!(status["data_dir"].as_str(), broker.data_dir().to_str());
}

#[test]
fn the_admins_password_is_shown_once_and_stays_valid() {
    let mut broker = Broker::start();
    assert!(broker.terminate().success());
    broker.restart();
    cli::json(&broker, &["status"]);
    let log = broker.log();
    assert!(!log.contains(broker.password()), "the password is in the log");
}

#[test]
fn a_second_broker_on_the_same_folder_is_refused_with_who_holds_it() {
    let mut broker = Broker::start();
    let output = serve_command_output(&mut broker.serve_command());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    assert!(
        stderr.contains(&broker.pid().to_string()),
        "it names the process that holds the folder: {stderr}"
    );
    assert!(broker.is_running());
    cli::json(&broker, &["status"]);
}

#[test]
fn an_unknown_key_in_the_configuration_is_refused_with_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pointsman.toml");
    std::fs::write(&file, "lissten = \"127.0.0.1:0\"\n").unwrap();
    let output = serve(folder.path(), &["--config", file.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in ["lissten", "listen", "pointsman.toml"] {
        assert!(stderr.contains(part), "it names {part}: {stderr}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let output = serve(folder.path(), &["--fsync", "sometimes"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        stderr.contains("fsync") && stderr.contains("sometimes"),
        "{stderr}"
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pointsman.toml");
    std::fs::write(&file, "fsync = \"never\"\n").unwrap();
    let config = file.to_str().unwrap();
    let fsync = |settings| {
        cli::json(&Broker::with(settings), &["status"])["fsync"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let file_only = Settings::default().args(["--config", config]);
    assert!(fsync(file_only.clone()).contains("never"));
    let with_env = file_only.env("POINTSMAN_FSYNC", "interval:70ms");
    assert!(fsync(with_env.clone()).contains("70"));
    assert!(fsync(with_env.args(["--fsync", "always"])).contains("always"));
}

#[tokio::test]
async fn the_log_has_no_bodies_and_no_credentials_and_is_json_on_request() {
    let mut broker = Broker::with(Settings::default().args(["--log-format", "json", "--log", "debug"]));
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    publish(&client, "", "q", "a body nobody may log").await;
    broker
        .client_builder()
        .credentials("admin", "a wrong secret")
        .connect()
        .await
        .err()
        .unwrap();
    client.close().await;
    assert!(broker.terminate().success());
    let log = broker.log();
    assert!(!log.is_empty());
    for secret in ["a body nobody may log", "a wrong secret", broker.password()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// Runs `serve` on a folder where it must not start.
fn serve(folder: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(pointsman());
    command
        .arg("--contexts-file")
        .arg(folder.join("contexts.toml"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .args(args);
    serve_command_output(&mut command)
}

/// Runs a command that must end by itself.
fn serve_command_output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    if broker::wait(&mut child).is_none() {
        let _ = child.kill();
        panic!("it started, but must not");
    }
    child.wait_with_output().expect("its output is read")
}
