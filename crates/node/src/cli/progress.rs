//! Progress of offline work: a bar with rate and ETA on a terminal; elsewhere a log line at the beginning of each stage
//! and every ten seconds.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use state_pruner::{Clock, Observer, Progress, Stage};

use super::render::{Output, number};

/// Time between two log lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Share of the work after which an ETA means something (O4).
const ETA_FROM: f64 = 0.02;
/// Time between two moves of the spinner, which shows that the process lives while the work reports nothing.
const SPIN_EVERY: Duration = Duration::from_millis(200);
/// A report older than this is told with its age.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// What is done before the first stage reports.
const OPENING: &str = "opening the store";
/// Steps of the bar.
const STEPS: u64 = 1000;

/// Shows progress to people; with `--json` it only logs.
pub(super) struct Watch {
    clock: Arc<dyn Clock>,
    bar: Option<ProgressBar>,
    shown: Mutex<Shown>,
}

struct Shown {
    stage: Option<Stage>,
    begun: Duration,
    line: Duration,
    reported: Duration,
    text: Option<String>,
}

impl Shown {
    /// The last report, and how old it is where that is long: work that moves much at once reports late.
    fn text(&self, now: Duration) -> String {
        let Some(text) = &self.text else { return OPENING.to_owned() };
        let age = now.saturating_sub(self.reported);
        if age < STALE_AFTER { text.to_owned() } else { format!("{text} ({} s ago)", age.as_secs()) }
    }
}

impl Watch {
    pub(super) fn new(clock: Arc<dyn Clock>, output: Output) -> Self {
        let visible = output == Output::Human && std::io::stderr().is_terminal();
        let bar = visible.then(|| {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
            bar.set_style(style());
            bar.set_message(OPENING);
            bar.enable_steady_tick(SPIN_EVERY);
            bar
        });
        if bar.is_none() {
            tracing::info!("{OPENING}");
        }
        let begun = clock.monotonic();
        let shown = Shown { stage: None, begun, line: begun, reported: begun, text: None };
        Self { clock, bar, shown: Mutex::new(shown) }
    }

    /// Tells how far the work is if the last time was long ago, whether anything was reported since or not.
    pub(super) fn tick(&self) {
        let now = self.clock.monotonic();
        let mut shown = self.shown.lock();
        if let Some(bar) = &self.bar {
            bar.set_message(shown.text(now));
        } else if now.saturating_sub(shown.line) >= LINE_EVERY {
            shown.line = now;
            tracing::info!("{}", shown.text(now));
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    match ProgressStyle::with_template("{spinner} {elapsed_precise} {bar:20} {msg}") {
        Ok(style) => style,
        Err(error) => {
            tracing::debug!("the bar keeps its usual look: {error}");
            ProgressStyle::default_bar()
        }
    }
}

impl Observer for Watch {
    fn progress(&self, progress: Progress) {
        let now = self.clock.monotonic();
        let mut shown = self.shown.lock();
        if shown.stage != Some(progress.stage) {
            *shown = Shown { stage: Some(progress.stage), begun: now, line: now, reported: now, text: None };
            if self.bar.is_none() {
                tracing::info!("{} begins", progress.stage.label());
            }
        }
        let text = describe(&progress, now.saturating_sub(shown.begun));
        if let Some(bar) = &self.bar {
            let share = progress.share.map_or(0.0, |share| share.clamp(0.0, 1.0));
            bar.set_position((share * STEPS as f64) as u64);
            bar.set_message(text.clone());
        }
        shown.reported = now;
        shown.text = Some(text);
    }
}

/// One line: stage, items, rate, share, time left.
pub(super) fn describe(progress: &Progress, elapsed: Duration) -> String {
    let mut text = format!("{} {}", progress.stage.label(), number(progress.done));
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        text.push_str(&format!(", {}/s", number((progress.done as f64 / seconds) as u64)));
    }
    if let Some(share) = progress.share {
        text.push_str(&format!(", {:.0} %", share * 100.0));
        if share >= ETA_FROM {
            let left = Duration::from_secs((seconds * (1.0 - share).max(0.0) / share) as u64);
            text.push_str(&format!(", {} left", humantime::format_duration(left)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_with_its_age_once_it_is_old() {
        let at = Duration::from_secs;
        let mut shown =
            Shown { stage: Some(Stage::Mark), begun: at(1), line: at(1), reported: at(5), text: Some("mark 7".into()) };
        assert_eq!([shown.text(at(7)), shown.text(at(17))], ["mark 7", "mark 7 (12 s ago)"]);
        shown.text = None;
        assert_eq!(shown.text(at(17)), OPENING);
    }

    #[test]
    fn a_line_of_progress_tells_rate_share_and_an_eta_that_follows_from_them() {
        let progress = |done, share| Progress { stage: Stage::Scan, done, share };
        let seconds = Duration::from_secs;
        let rows = [
            (progress(1000, Some(0.25)), seconds(10), "scan 1,000, 100/s, 25 %, 30s left"),
            (progress(1000, Some(0.01)), seconds(10), "scan 1,000, 100/s, 1 %"),
            (progress(7, None), Duration::ZERO, "scan 7"),
        ];
        for (progress, elapsed, expected) in rows {
            assert_eq!(describe(&progress, elapsed), expected);
        }
    }
}
