//! A program that builds everything from a configuration file: a wrong value is an error that names its field.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use onelane::{BlockingPool, CapacityLimiter, EndpointGuard, KeyedGuard, Queue, SingleFlight};
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {
    report: GuardConfig,
    user: KeyedConfig,
    page: FlightConfig,
    database: PoolConfig,
}

#[derive(Deserialize)]
struct GuardConfig {
    permits: usize,
    queue: usize,
    max_wait_ms: u64,
}

#[derive(Deserialize)]
struct KeyedConfig {
    max_keys: usize,
}

#[derive(Deserialize)]
struct FlightConfig {
    max_waiters: usize,
}

#[derive(Deserialize)]
struct PoolConfig {
    tokens: usize,
    reserve: usize,
    max_wait_ms: u64,
}

struct Service {
    report: EndpointGuard,
    user: KeyedGuard<String>,
    page: SingleFlight<String, String>,
    database: BlockingPool,
}

fn load(path: &Path) -> Result<Service, Box<dyn Error>> {
    let Config { report, user, page, database } = serde_json::from_str(&fs::read_to_string(path)?)?;
    Ok(Service {
        report: EndpointGuard::builder_named("report".to_owned())
            .permits(report.permits)
            .queue(Queue::Bounded(report.queue))
            .max_wait(Duration::from_millis(report.max_wait_ms))
            .try_build()?,
        user: KeyedGuard::builder_named("user".to_owned()).max_keys(user.max_keys).try_build()?,
        page: SingleFlight::builder_named("page".to_owned()).max_waiters(page.max_waiters).try_build()?,
        database: BlockingPool::builder("database".to_owned())
            .limiter(CapacityLimiter::try_with_reserve(database.tokens, database.reserve)?)
            .max_wait(Duration::from_millis(database.max_wait_ms))
            .try_build()?,
    })
}

/// A configuration in which `field` of `section` has another value.
fn config(section: &str, field: &str, value: u64) -> String {
    let mut config = serde_json::json!({
        "report": { "permits": 2, "queue": 32, "max_wait_ms": 500 },
        "user": { "max_keys": 1000 },
        "page": { "max_waiters": 64 },
        "database": { "tokens": 10, "reserve": 1, "max_wait_ms": 500 },
    });
    config[section][field] = value.into();
    config.to_string()
}

fn load_with(section: &str, field: &str, value: u64) -> Result<Service, String> {
    let directory = std::env::temp_dir().join(format!("onelane-{}-{section}-{field}-{value}", std::process::id()));
    fs::create_dir_all(&directory).expect("the temporary directory is writable");
    let path = directory.join("service.json");
    fs::write(&path, config(section, field, value)).expect("the temporary directory is writable");
    let service = load(&path).map_err(|error| error.to_string());
    fs::remove_dir_all(&directory).expect("the directory was created above");
    service
}

#[test]
fn valid_configuration_is_built() {
    let service = load_with("report", "permits", 3).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((service.report.name(), service.report.stats().permits), ("report", 3));
    assert_eq!((service.user.name(), service.page.name(), service.database.name()), ("user", "page", "database"));
}

#[test]
fn wrong_value_is_an_error_that_names_its_owner_and_its_field() {
    for (section, field, value, names) in [
        ("report", "permits", 0, ["`report`", "permits"]),
        ("report", "permits", u64::MAX, ["`report`", "permits"]),
        ("report", "queue", u64::MAX, ["`report`", "queue"]),
        ("report", "max_wait_ms", 0, ["`report`", "max_wait"]),
        ("user", "max_keys", 0, ["`user`", "max_keys"]),
        ("page", "max_waiters", u64::MAX, ["`page`", "max_waiters"]),
        ("database", "max_wait_ms", 0, ["`database`", "max_wait"]),
        ("database", "reserve", u64::MAX, ["limiter", "reserve"]),
    ] {
        let Err(error) = load_with(section, field, value) else { panic!("{section}.{field} = {value} was accepted") };
        assert!(names.iter().all(|name| error.contains(name)), "{section}.{field} = {value}: {error}");
    }
}
