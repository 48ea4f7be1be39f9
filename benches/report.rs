//! Results as JSON lines while they come, and as a table at the end.

use std::time::Duration;

use serde_json::json;

use crate::Took;

/// The shortest of several times.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    /// By the clock, in seconds.
    pub wall: f64,
    /// By the processors, in seconds.
    pub cpu: f64,
}

/// Collects what was measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(String, String)>,
}

impl Table {
    /// The shortest of several times, by the clock and by the processors apart.
    pub fn time(&mut self, name: &str, runs: &[Took]) -> Least {
        let least = |of: fn(&Took) -> Duration| runs.iter().map(of).min().map_or(f64::NAN, |least| least.as_secs_f64());
        let least = Least { wall: least(|took| took.wall), cpu: least(|took| took.cpu) };
        let walls: Vec<f64> = runs.iter().map(|took| took.wall.as_secs_f64()).collect();
        let json = json!({ "name": name, "seconds": least.wall, "cpu_seconds": least.cpu, "runs": walls });
        self.line(name, &json, format!("{:.3} s   ({:.3} s of processors)", least.wall, least.cpu));
        least
    }

    /// How two times compare, and the bound that the ratio by the clock should keep.
    pub fn ratio(&mut self, name: &str, over: Least, under: Least, most: Option<f64>) {
        let (wall, cpu) = (over.wall / under.wall, over.cpu / under.cpu);
        let bound = most.map_or_else(String::new, |most| format!("   (at most {most})"));
        let json = json!({ "name": name, "ratio": wall, "cpu_ratio": cpu, "most": most });
        self.line(name, &json, format!("{wall:.3}{bound}   ({cpu:.3} of processors)"));
    }

    /// A number with its unit.
    pub fn number(&mut self, name: &str, number: f64, unit: &str) {
        self.line(name, &json!({ "name": name, "number": number, "unit": unit }), format!("{number:.2} {unit}"));
    }

    #[expect(clippy::print_stdout, reason = "a bench prints its results")]
    fn line(&mut self, name: &str, json: &serde_json::Value, shown: String) {
        println!("{json}");
        self.rows.push((name.to_owned(), shown));
    }

    /// Prints the table.
    #[expect(clippy::print_stdout, reason = "a bench prints its results")]
    pub fn print(&self) {
        println!();
        for (name, shown) in &self.rows {
            println!("{name:<58} {shown}");
        }
    }
}
