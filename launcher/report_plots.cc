#include "launcher/report_plots.h"

#include <absl/strings/numbers.h>
#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace savior {
namespace {

constexpr double kKiB = 1 << 10, kMiB = 1 << 20;

// Takes series out of a report, scaled, into plots with its axis and marks.
class Plotter {
 public:
  explicit Plotter(const RunReport& report)
      : metrics_(report.metrics), marks_(MarksOf(report.refreshes)) {}

  LinePlot Plot(std::string title, std::string unit) const {
    LinePlot plot;
    plot.title = std::move(title);
    plot.unit = std::move(unit);
    plot.first_step = static_cast<double>(metrics_.first_step);
    plot.last_step = static_cast<double>(metrics_.last_step);
    plot.marks = marks_;
    return plot;
  }

  void Add(const std::string& series, const std::string& name, LinePlot* plot,
           double scale = 1) const {
    const auto found = metrics_.series.find(series);
    if (found == metrics_.series.end() || found->second.empty()) return;
    PlotLine& line = plot->lines.emplace_back(PlotLine{.name = name, .points = found->second});
    for (SeriesPoint& p : line.points) {
      for (double* value : {&p.mean, &p.least, &p.most}) *value *= scale;
    }
  }

  // x of every series called <prefix>x<suffix>, by name.
  std::vector<std::string> Between(std::string_view prefix, std::string_view suffix) const {
    std::vector<std::string> found;
    for (const auto& [name, points] : metrics_.series) {
      if (name.size() > prefix.size() + suffix.size() && name.starts_with(prefix) &&
          name.ends_with(suffix)) {
        found.push_back(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
      }
    }
    return found;
  }

  void AddAll(std::string_view prefix, std::string_view suffix, LinePlot* plot,
              double scale = 1) const {
    for (const std::string& name : Between(prefix, suffix)) {
      Add(std::string(prefix) + name + std::string(suffix), name, plot, scale);
    }
  }

  // Of all of them; 0: there are none.
  double Most(std::string_view prefix, std::string_view suffix) const {
    double most = 0;
    for (const std::string& name : Between(prefix, suffix)) {
      for (const SeriesPoint& p :
           metrics_.series.at(std::string(prefix) + name + std::string(suffix))) {
        most = std::max(most, p.most);
      }
    }
    return most;
  }

 private:
  const RunMetrics& metrics_;
  const std::vector<PlotMark> marks_;
};

PlotSection Quality(const Plotter& plotter) {
  PlotSection section{.title = "Losses and ranking",
                      .note = "Losses are exponential means over some 100 steps, in nats.",
                      .plots = {}};
  LinePlot loss = plotter.Plot("Loss", "nats");
  plotter.Add("loss_ctr", "click", &loss);
  plotter.Add("loss_ctcvr", "click and conversion", &loss);
  section.plots.push_back(std::move(loss));
  LinePlot auc = plotter.Plot("Click AUC, before a batch is learnt from", "AUC");
  plotter.AddAll("progressive.", ".auc", &auc);
  LinePlot logloss = plotter.Plot("Click log loss, before a batch is learnt from", "nats");
  plotter.AddAll("progressive.", ".logloss", &logloss);
  if (!IsEmpty(auc)) {
    section.note +=
        " AUC and log loss before learning (eval.progressive) are of the lead worker's "
        "impressions since the line of metrics.jsonl before, by bucket.";
  }
  section.plots.push_back(std::move(auc));
  section.plots.push_back(std::move(logloss));
  return section;
}

PlotSection Speed(const Plotter& plotter) {
  PlotSection section{.title = "Speed", .note = "", .plots = {}};
  LinePlot samples = plotter.Plot("Impressions trained on", "per second");
  samples.from_zero = true;
  plotter.Add("samples_per_s", "per second", &samples);
  plotter.Add("samples_per_cpu_s", "per CPU-second of all processes", &samples);
  section.plots.push_back(std::move(samples));
  LinePlot step = plotter.Plot("Where a step's time goes (the lead worker, means)", "ms");
  step.from_zero = true;
  for (const char* part :
       {"step", "compute", "assemble", "pull_wait", "push_wait", "allreduce_wait", "adam"}) {
    plotter.Add(fmt::format("step_seconds.{}.mean", part),
                std::string_view(part) == "step" ? "whole step" : part, &step, 1e3);
  }
  section.plots.push_back(std::move(step));
  LinePlot pauses = plotter.Plot("Training stood still for commits and switches", "ms");
  pauses.from_zero = true;
  plotter.Add("commits.stood_still_ms", "to begin a commit (the longest of each range)", &pauses);
  for (PlotLine& line : pauses.lines) line.dots = true;
  section.plots.push_back(std::move(pauses));
  return section;
}

// Switches stand beside the commits they are followed by.
void AddSwitchPauses(const RefreshHistory& history, PlotSection* speed) {
  PlotLine line{.name = "at a switch of the codebook", .points = {}, .dots = true};
  for (const CodebookRefresh& refresh : history.refreshes) {
    for (const RefreshEvent& event : refresh.events) {
      if (event.state != "ACTIVE" || !event.step || !event.stood_still_ms) continue;
      const double ms = *event.stood_still_ms;
      line.points.push_back({static_cast<double>(*event.step), ms, ms, ms, 1});
    }
  }
  if (!line.points.empty()) speed->plots.back().lines.push_back(std::move(line));
}

PlotSection Tables(const Plotter& plotter) {
  PlotSection section{.title = "Tables", .note = "", .plots = {}};
  LinePlot rows = plotter.Plot("Rows by table", "rows");
  rows.log = true;
  plotter.AddAll("tables.", ".rows", &rows);
  section.plots.push_back(std::move(rows));
  const bool small = plotter.Most("tables.", ".hot_bytes") < kMiB;
  LinePlot bytes = plotter.Plot("Bytes in RAM by table", small ? "KiB" : "MiB");
  bytes.log = true;
  plotter.AddAll("tables.", ".hot_bytes", &bytes, small ? 1 / kKiB : 1 / kMiB);
  section.plots.push_back(std::move(bytes));
  LinePlot memory = plotter.Plot("Memory of the lead worker's process", "MiB");
  memory.from_zero = true;
  plotter.Add("rss_bytes", "resident", &memory, 1 / kMiB);
  section.plots.push_back(std::move(memory));
  LinePlot hits = plotter.Plot("Pulled rows that were in RAM", "share");
  hits.from_zero = true;
  plotter.Add("hot_hit_rate", "all tables", &hits);
  section.plots.push_back(std::move(hits));
  return section;
}

PlotSection Drift(const Plotter& plotter, const Config::Refresh& bounds, bool on_drift) {
  PlotSection section{
      .title = "Drift of the catalogue",
      .note = std::string("Of the codebook in use, looked at when a day of training data ends; "
                          "dashed: the bound beyond which a refresh begins") +
              (on_drift ? "." : " (refresh.on_drift is off: nothing begins by itself)."),
      .plots = {}};
  const std::string prefix = "codebook.drift.";
  LinePlot error = plotter.Plot("Quantisation error of new items over that of old ones", "ratio");
  plotter.Add(prefix + "rq_mse_ratio", "rq_mse_ratio", &error);
  error.levels = {{"refresh.max_rq_mse_ratio", bounds.max_rq_mse_ratio}};
  LinePlot drop = plotter.Plot("Perplexity lost, of the level that lost most", "share");
  plotter.Add(prefix + "perplexity_drop", "perplexity_drop", &drop);
  drop.levels = {{"refresh.max_perplexity_drop", bounds.max_perplexity_drop}};
  LinePlot fresh = plotter.Plot("New items with codes that no older item has", "share");
  plotter.Add(prefix + "new_code_share", "new_code_share", &fresh);
  fresh.levels = {{"refresh.max_new_code_share", bounds.max_new_code_share}};
  LinePlot perplexity = plotter.Plot("Perplexity of the codes", "codes");
  for (const std::string& level : plotter.Between(prefix + "perplexity.", "")) {
    int number = 0;
    if (!absl::SimpleAtoi(level, &number)) continue;
    plotter.Add(fmt::format("{}perplexity.{}", prefix, level), fmt::format("level {}", number + 1),
                &perplexity);
  }
  for (LinePlot* plot : {&error, &drop, &fresh, &perplexity}) {
    section.plots.push_back(std::move(*plot));
  }
  return section;
}

}  // namespace

std::vector<PlotMark> MarksOf(const RefreshHistory& history) {
  std::vector<PlotMark> marks;
  for (const CodebookRefresh& refresh : history.refreshes) {
    // What was taken back was done again.
    if (refresh.fate == CodebookRefresh::Fate::kInterrupted) continue;
    for (const RefreshEvent& event : refresh.events) {
      if (!event.step) continue;
      PlotMark mark{.step = static_cast<double>(*event.step), .kind = {}, .text = {}, .more = {}};
      if (event.state == "ACTIVE") {
        mark.kind = "switch";
        mark.text = fmt::format("v{}", refresh.version);
        mark.more = fmt::format("step {}: codebook version {} in use ({})", *event.step,
                                refresh.version, NameOf(refresh.fate));
      } else if (event.state == "ROLLED_BACK") {
        mark.kind = "rollback";
        mark.text = fmt::format("back to v{}", refresh.version - 1);
        mark.more = fmt::format("version {} was rolled back: from step {} on version {} again",
                                refresh.version, *event.step, refresh.version - 1);
      } else if (event.state == "ABORTED") {
        mark.kind = "abort";
        mark.text = fmt::format("v{} aborted", refresh.version);
        mark.more = fmt::format("step {}: version {} was given up: {}", *event.step,
                                refresh.version, refresh.why_not);
      } else {
        continue;
      }
      marks.push_back(std::move(mark));
    }
  }
  std::ranges::stable_sort(marks, {}, &PlotMark::step);
  return marks;
}

std::vector<PlotSection> PlotsOf(const RunReport& report) {
  if (report.metrics.lines == 0) return {};
  const Plotter plotter(report);
  std::vector<PlotSection> sections = {Quality(plotter), Speed(plotter), Tables(plotter)};
  AddSwitchPauses(report.refreshes, &sections[1]);
  sections.push_back(Drift(plotter, report.config.refresh, report.config.refresh.on_drift));
  for (PlotSection& section : sections) {
    std::erase_if(section.plots, [](const LinePlot& plot) { return IsEmpty(plot); });
  }
  std::erase_if(sections, [](const PlotSection& section) { return section.plots.empty(); });
  return sections;
}

}  // namespace savior
