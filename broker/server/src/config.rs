//! Settings: a TOML file, the environment and flags, each stronger than the one before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman_core::Fsync;
use serde::Deserialize;

/// Settings of a broker, all decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// The UDP address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where everything durable is.
    pub data_dir: PathBuf,
    /// What a confirm promises.
    pub fsync: Fsync,
    /// Largest body a publisher may send, in bytes.
    pub body_max: u32,
    /// Threads that serve connections and run routers. One is fastest on up to two cores.
    pub workers: usize,
    /// Free space of the data folder's disk below which publishes are refused, in bytes.
    pub disk_free_min: u64,
    /// How long a stopping broker waits for its connections to finish.
    pub drain_timeout: Duration,
    /// Longest a router may take for one batch.
    pub router_deadline: Duration,
    /// The program and arguments that compile a module in a process of its own.
    pub compiler: (PathBuf, Vec<String>),
}

/// Settings as one source gives them; what it does not name stays as it was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Layer {
    /// See [`Config::listen`].
    pub listen: Option<SocketAddr>,
    /// See [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// `always`, `never` or `interval:100ms`. See [`Config::fsync`].
    pub fsync: Option<String>,
    /// See [`Config::body_max`].
    pub body_max: Option<u32>,
    /// See [`Config::workers`].
    pub workers: Option<usize>,
    /// See [`Config::disk_free_min`].
    pub disk_free_min: Option<u64>,
    /// Seconds. See [`Config::drain_timeout`].
    pub drain_timeout_s: Option<u64>,
    /// Milliseconds. See [`Config::router_deadline`].
    pub router_deadline_ms: Option<u64>,
}

/// The keys of a configuration file; the environment spells them `POINTSMAN_` and in capitals.
pub const KEYS: [&str; 8] = [
    "listen",
    "data_dir",
    "fsync",
    "body_max",
    "workers",
    "disk_free_min",
    "drain_timeout_s",
    "router_deadline_ms",
];

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("the configuration file {} is not valid: {message}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A key nobody knows.
    #[error("unknown key `{key}` in {}; did you mean `{nearest}`?", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// What it says.
        key: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
    /// A value that does not fit its key.
    #[error("{key} cannot be `{value}`: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        why: String,
    },
}

impl Config {
    /// Settles all settings: `file` if there is one, then `POINTSMAN_*` of `env`, then `flags`.
    /// `default_data_dir` is used when none of them names a data folder.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value out of range.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: Layer,
        default_data_dir: PathBuf,
        compiler: (PathBuf, Vec<String>),
    ) -> Result<Config, ConfigError> {
        let file = file.map(Layer::from_file).transpose()?.unwrap_or_default();
        let layer = file.overlaid(Layer::from_env(env)?).overlaid(flags);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let body_max = layer
            .body_max
            .unwrap_or(pointsman_protocol::limits::FRAME_BODY_MAX);
        let workers = layer.workers.unwrap_or(cores.saturating_sub(1).clamp(1, 16));
        let fsync = layer.fsync.unwrap_or_else(|| "always".to_owned());
        in_range(
            "body_max",
            body_max.into(),
            1,
            pointsman_protocol::limits::FRAME_BODY_MAX.into(),
        )?;
        in_range("workers", workers as u64, 1, 1_024)?;
        let router_deadline_ms = layer.router_deadline_ms.unwrap_or(50);
        in_range("router_deadline_ms", router_deadline_ms, 1, 60_000)?;
        Ok(Config {
            listen: layer
                .listen
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], pointsman_protocol::DEFAULT_PORT))),
            data_dir: layer.data_dir.unwrap_or(default_data_dir),
            fsync: fsync.parse().map_err(|why| ConfigError::Value {
                key: "fsync",
                value: fsync.clone(),
                why: format!("{why}"),
            })?,
            body_max,
            workers,
            disk_free_min: layer.disk_free_min.unwrap_or(256 * 1024 * 1024),
            drain_timeout: Duration::from_secs(layer.drain_timeout_s.unwrap_or(10)),
            router_deadline: Duration::from_millis(router_deadline_ms),
            compiler,
        })
    }
}

fn in_range(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        why: format!("it must be from {min} to {max}"),
    })
}

impl Layer {
    /// What a TOML file says.
    fn from_file(path: &Path) -> Result<Layer, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Layer::from_toml(path, &text)
    }

    fn from_toml(path: &Path, text: &str) -> Result<Layer, ConfigError> {
        let parse = |error: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        };
        let table: toml::Table = text.parse().map_err(parse)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let nearest = nearest(key);
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                nearest,
            });
        }
        toml::from_str(text).map_err(parse)
    }

    /// What `POINTSMAN_*` variables say. Others, such as those of the client commands, are passed over.
    fn from_env(env: impl IntoIterator<Item = (String, String)>) -> Result<Layer, ConfigError> {
        let mut layer = Layer::default();
        for (name, value) in env {
            let Some(name) = name.strip_prefix("POINTSMAN_") else {
                continue;
            };
            let Some(key) = KEYS.into_iter().find(|key| key.to_uppercase() == name) else {
                continue;
            };
            match key {
                "listen" => layer.listen = Some(number(key, &value)?),
                "data_dir" => layer.data_dir = Some(PathBuf::from(value)),
                "fsync" => layer.fsync = Some(value),
                "body_max" => layer.body_max = Some(number(key, &value)?),
                "workers" => layer.workers = Some(number(key, &value)?),
                "disk_free_min" => layer.disk_free_min = Some(number(key, &value)?),
                "drain_timeout_s" => layer.drain_timeout_s = Some(number(key, &value)?),
                "router_deadline_ms" => layer.router_deadline_ms = Some(number(key, &value)?),
                _ => unreachable!("every key of KEYS has its line"),
            }
        }
        Ok(layer)
    }

    /// This layer with what the stronger one names.
    fn overlaid(self, stronger: Layer) -> Layer {
        Layer {
            listen: stronger.listen.or(self.listen),
            data_dir: stronger.data_dir.or(self.data_dir),
            fsync: stronger.fsync.or(self.fsync),
            body_max: stronger.body_max.or(self.body_max),
            workers: stronger.workers.or(self.workers),
            disk_free_min: stronger.disk_free_min.or(self.disk_free_min),
            drain_timeout_s: stronger.drain_timeout_s.or(self.drain_timeout_s),
            router_deadline_ms: stronger.router_deadline_ms.or(self.router_deadline_ms),
        }
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(
    key: &'static str,
    value: &str,
) -> Result<T, ConfigError> {
    value.parse().map_err(|why: T::Err| ConfigError::Value {
        key,
        value: value.to_owned(),
        why: why.to_string(),
    })
}

fn nearest(key: &str) -> &'static str {
    KEYS.into_iter()
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .unwrap_or(KEYS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], flags: Layer) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pointsman.toml");
        std::fs::write(&path, file).unwrap();
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Config::load(
            Some(&path),
            env,
            flags,
            PathBuf::from("/default"),
            (PathBuf::new(), Vec::new()),
        )
    }

    #[test]
    fn the_file_gives_way_to_the_environment_and_that_to_flags() {
        let file = "body_max = 1\nworkers = 1\ndisk_free_min = 1\n";
        let flags = Layer {
            disk_free_min: Some(3),
            ..Layer::default()
        };
        let env = [
            ("POINTSMAN_WORKERS", "2"),
            ("POINTSMAN_DISK_FREE_MIN", "2"),
            ("POINTSMAN_SERVER", "x"),
        ];
        let config = load(file, &env, flags).unwrap();
        assert_eq!((config.body_max, config.workers, config.disk_free_min), (1, 2, 3));
        assert_eq!(config.data_dir, PathBuf::from("/default"));
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_known_one_named() {
        let error = load("data_dri = \"/x\"\n", &[], Layer::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("unknown key `data_dri`") && error.contains("`data_dir`"),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_key() {
        let error = load("", &[("POINTSMAN_LISTEN", "nowhere")], Layer::default())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("listen cannot be `nowhere`"), "{error}");
        let error = load("workers = 0", &[], Layer::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("it must be from 1 to 1024"), "{error}");
        let error = load("workers = \"two\"", &[], Layer::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("workers"), "{error}");
    }
}
