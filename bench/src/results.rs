//! What was measured: kept as JSON, shown as Markdown, and drawn.
//!
//! Invariant: the Markdown, the plots and `scale.md` are made from `results.json` alone, so that they can be made
//! again without measuring, and every part says when, where and of what it was taken.

use std::path::Path;

use anyhow::Context as _;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::taken::Part;
use crate::{
    agent, calls, cold_start, fan_out, function, money, pages, plots, ratios, scale, whole_way,
};

/// All parts that were measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) whole_way: Option<Part<Vec<whole_way::Row>>>,
    pub(crate) function: Option<Part<function::FunctionCosts>>,
    pub(crate) calls: Option<Part<calls::CallCounts>>,
    pub(crate) fan_out: Option<Part<Vec<fan_out::Answers>>>,
    pub(crate) cold_start: Option<Part<Vec<cold_start::ColdStart>>>,
    pub(crate) agent: Option<Part<agent::AgentFigures>>,
}

impl Results {
    /// What is in this directory; nothing, if there is no `results.json`.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join("results.json");
        match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("`{}` is of another version: remove it", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read `{}`", file.display())),
        }
    }

    /// Writes `results.json`, `results.md` and the plots.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot use `{}`", directory.display()))?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        std::fs::write(directory.join("results.json"), json)?;
        std::fs::write(directory.join("results.md"), self.markdown()?)?;
        if let Some(rows) = &self.whole_way {
            plots::whole_way(&rows.found, directory)?;
        }
        if let (Some(calls), Some(function)) = (&self.calls, &self.function) {
            let bursts = scale::bursts(&calls.found, &function.found);
            plots::burst(&bursts, directory)?;
        }
        Ok(())
    }

    /// Everything that was measured, as a page.
    pub(crate) fn markdown(&self) -> anyhow::Result<String> {
        pages::render("results", self.context())
    }

    fn context(&self) -> Value {
        let money = (self.calls.as_ref().zip(self.function.as_ref()))
            .map(|(calls, function)| money::context(&calls.found, &function.found));
        context! {
            whole_way => self.whole_way.as_ref().map(Part::context),
            ratios => self.whole_way.as_ref().map(|rows| ratios::of(&rows.found)),
            function => self.function.as_ref().map(Part::context),
            calls => self.calls.as_ref().map(Part::context),
            fan_out => self.fan_out.as_ref().map(Part::context),
            cold_start => self.cold_start.as_ref().map(Part::context),
            agent => self.agent.as_ref().map(Part::context),
            money,
        }
    }

    /// The page on scale; none before what it is made from was measured.
    pub(crate) fn scale(&self) -> anyhow::Result<Option<String>> {
        let (Some(calls), Some(function)) = (&self.calls, &self.function) else {
            return Ok(None);
        };
        scale::context(&calls.found, function)
            .map(|context| pages::render("scale", context))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the repository.
    fn committed() -> Results {
        Results::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/results"))).unwrap()
    }

    fn file(path: &str) -> String {
        std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn what_is_shown_is_what_was_measured() {
        let results = committed();
        assert_eq!(file("results/results.md"), results.markdown().unwrap());
        assert_eq!(Some(file("../docs/scale.md")), results.scale().unwrap());
    }

    #[test]
    fn the_readme_quotes_what_was_measured() {
        let readme = file("../README.md");
        let (_, figures) = readme.split_once("\n## Figures\n").unwrap();
        let (figures, _) = figures.split_once("\n## ").unwrap();
        let quoted = pages::render("figures", committed().context()).unwrap();
        assert!(figures.contains(&quoted), "README.md needs:\n{quoted}");
        let (_, plot) = figures.split_once("\n![").unwrap();
        let (_, plot) = plot.split_once("](bench/").unwrap();
        let (plot, _) = plot.split_once(')').unwrap();
        assert!(file(plot).starts_with("<svg"));
        let taken = committed().whole_way.unwrap().taken;
        assert!(figures.contains(&taken.date), "{}", taken.date);
        assert!(
            taken.build == "release" && !taken.command.contains("--quick"),
            "{taken:?}"
        );
    }

    #[test]
    fn the_cost_of_a_stack_at_rest_is_what_was_counted() {
        let measured = file("results/results.md");
        let (_, idle) = measured.split_once("| **all of it").unwrap();
        let dollars = idle.split("**").nth(2).unwrap();
        let page = file("../docs/deploy.md");
        assert!(page.contains(&format!("[{dollars} a month]")), "{dollars}");
    }
}
