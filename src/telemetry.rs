//! Logs: what the crate says through `tracing` goes to standard error, as text for people or as one JSON object a line
//! for collectors. `main` calls [`init`] once, before anything else runs.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("bad log filter {filter:?}: {reason}")]
    BadFilter { filter: String, reason: String },
    #[error("logging is set up already")]
    AlreadySet,
}

/// Sends the logs of the whole process to standard error.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let subscriber = subscriber(config, io::stderr, io::stderr().is_terminal())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadySet)
}

/// A subscriber that writes where it is told: `init` gives it standard error.
fn subscriber<W>(
    config: &LogConfig,
    writer: W,
    colours: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&config.filter)
        .map_err(|error| TelemetryError::BadFilter { filter: config.filter.clone(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would report a failed write with a panic where standard error is a closed pipe, and a panic ends the node.
        .log_internal_errors(false);
    Ok(match config.format {
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
        // Fields beside the message, where collectors look for them.
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> Vec<String> {
        let lines = Lines::default();
        let for_subscriber = lines.clone();
        let config = LogConfig { format, filter: filter.to_string() };
        let subscriber = subscriber(&config, move || for_subscriber.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shard = 7, "leader elected");
            tracing::debug!("a detail");
            tracing::info!(target: "other", "from elsewhere");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_string).collect()
    }

    #[test]
    fn text_has_one_line_an_event_without_colour_codes() {
        let lines = logged(LogFormat::Text, "info");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("INFO") && lines[0].ends_with("leader elected shard=7"), "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
    }

    #[test]
    fn json_has_one_object_a_line_with_its_fields_at_the_top() {
        let lines = logged(LogFormat::Json, "info");
        assert_eq!(lines.len(), 2, "{lines:?}");
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&event["level"], &event["message"]), (&"INFO".into(), &"leader elected".into()));
        assert_eq!(event["shard"], 7);
        assert_eq!(event["target"], "ringraft::telemetry::tests");
    }

    #[test]
    fn the_filter_chooses_by_level_and_module() {
        assert_eq!(logged(LogFormat::Text, "debug").len(), 3);
        assert_eq!(logged(LogFormat::Text, "warn").len(), 0);
        assert_eq!(logged(LogFormat::Text, "warn,ringraft::telemetry=debug").len(), 2);
    }

    #[test]
    fn a_filter_that_does_not_parse_is_an_error_that_repeats_it() {
        let config = LogConfig { format: LogFormat::Text, filter: "ringraft=loud".to_string() };
        let error = subscriber(&config, io::stderr, false).err().unwrap();
        assert!(error.to_string().contains("\"ringraft=loud\""), "{error}");
    }
}
