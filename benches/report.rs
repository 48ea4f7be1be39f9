//! Results as JSON lines while they come, and as a table at the end: each figure with its bound and whether it keeps it.
//!
//! With `--check` a broken bound fails the bench; without, it is only printed, since a busy machine breaks bounds too.

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};

use crate::{Took, args};

/// What a figure has to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Nothing: it is there to be read.
    None,
    /// It may not be larger.
    AtMost(f64),
    /// It may not be smaller.
    AtLeast(f64),
}

impl Bound {
    /// Whether the figure keeps the bound. A figure that is no number, as one of no rounds, keeps none.
    fn verdict(self, figure: f64) -> Verdict {
        let kept = match self {
            Self::None => return Verdict::Unbound,
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        };
        if kept { Verdict::Kept } else { Verdict::Broken }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// How a figure and its bound agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unbound,
    Kept,
    Broken,
}

/// The shortest of several times.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    /// By the clock, in seconds.
    pub wall: f64,
    /// By the processors, in seconds.
    pub cpu: f64,
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    shown: String,
    bound: Bound,
    verdict: Verdict,
}

/// Collects what was measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// The shortest of several times, by the clock and by the processors apart.
    pub fn time(&mut self, name: &str, runs: &[Took]) -> Least {
        let least = |of: fn(&Took) -> Duration| runs.iter().map(of).min().map_or(f64::NAN, |least| least.as_secs_f64());
        let least = Least { wall: least(|took| took.wall), cpu: least(|took| took.cpu) };
        let walls: Vec<f64> = runs.iter().map(|took| took.wall.as_secs_f64()).collect();
        let json = json!({ "name": name, "seconds": least.wall, "cpu_seconds": least.cpu, "runs": walls });
        let shown = format!("{:.3} s   ({:.3} s of processors)", least.wall, least.cpu);
        self.line(name, json, shown, (least.wall, Bound::None));
        least
    }

    /// How two times compare, and the bound that the ratio by the clock has to keep.
    pub fn ratio(&mut self, name: &str, over: Least, under: Least, bound: Bound) {
        let (wall, cpu) = (over.wall / under.wall, over.cpu / under.cpu);
        let json = json!({ "name": name, "ratio": wall, "cpu_ratio": cpu });
        self.line(name, json, format!("{wall:.3}   ({cpu:.3} of processors)"), (wall, bound));
    }

    /// A number with its unit, and its bound.
    pub fn number(&mut self, name: &str, (number, unit): (f64, &str), bound: Bound) {
        let json = json!({ "name": name, "number": number, "unit": unit });
        self.line(name, json, format!("{number:.2} {unit}"), (number, bound));
    }

    #[expect(clippy::print_stdout, reason = "a bench prints its results")]
    fn line(&mut self, name: &str, mut json: Value, shown: String, (figure, bound): (f64, Bound)) {
        let verdict = bound.verdict(figure);
        if let (Verdict::Kept | Verdict::Broken, Some(fields)) = (verdict, json.as_object_mut()) {
            fields.insert("bound".to_owned(), bound.to_string().into());
            fields.insert("kept".to_owned(), (verdict == Verdict::Kept).into());
        }
        println!("{json}");
        self.rows.push(Row { name: name.to_owned(), shown, bound, verdict });
    }

    /// Whether a figure broke its bound.
    fn is_broken(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Broken)
    }

    /// Prints the table; under `--check` a broken bound makes the bench fail.
    #[expect(clippy::print_stdout, reason = "a bench prints its results")]
    #[must_use = "the exit code is the verdict"]
    pub fn finish(&self) -> ExitCode {
        println!();
        for Row { name, shown, bound, verdict } in &self.rows {
            match verdict {
                Verdict::Unbound => println!("{name:<60} {shown}"),
                Verdict::Kept => println!("{name:<60} {shown:<36} {bound}: kept"),
                Verdict::Broken => println!("{name:<60} {shown:<36} {bound}: BROKEN"),
            }
        }
        if self.is_broken() && args::flag("--check") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_bound_is_broken_and_one_at_it_is_not() {
        let table = [
            (Bound::None, 9.0, false, "nothing was promised"),
            (Bound::AtMost(2.0), 2.0, false, "at the bound"),
            (Bound::AtMost(2.0), 2.001, true, "beyond"),
            (Bound::AtLeast(0.85), 0.85, false, "at the bound"),
            (Bound::AtLeast(0.85), 0.84, true, "below"),
            (Bound::AtMost(2.0), f64::NAN, true, "what was not measured keeps nothing"),
            (Bound::AtLeast(2.0), f64::NAN, true, "what was not measured keeps nothing"),
        ];
        for (bound, figure, broken, why) in table {
            let mut rows = Table::default();
            rows.number("a figure", (figure, "units"), bound);
            assert_eq!(rows.is_broken(), broken, "{bound:?} {figure}: {why}");
        }
    }

    #[test]
    fn a_ratio_is_judged_by_the_clock() {
        let mut table = Table::default();
        let (long, short) = (Least { wall: 3.0, cpu: 1.0 }, Least { wall: 1.0, cpu: 1.0 });
        table.ratio("kept", long, short, Bound::AtMost(3.0));
        assert!(!table.is_broken());
        table.ratio("broken", long, short, Bound::AtMost(2.0));
        assert!(table.is_broken());
    }
}
