#include "launcher/report_page.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/markup.h"
#include "launcher/inspect.h"
#include "launcher/report_plots.h"
#include "launcher/report_style.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMissing = "&#8211;";  // a dash

const Json* At(const Json& json, std::initializer_list<const char*> path) {
  const Json* at = &json;
  for (const char* key : path) {
    if (!at->is_object() || !at->contains(key)) return nullptr;
    at = &(*at)[key];
  }
  return at;
}

std::optional<double> NumberAt(const Json& json, std::initializer_list<const char*> path) {
  const Json* const at = At(json, path);
  if (at == nullptr || !at->is_number()) return std::nullopt;
  return at->get<double>();
}

std::string Fact(std::string_view name, std::string_view value) {
  return fmt::format("<dt>{}</dt><dd>{}</dd>\n", EscapeMarkup(name), EscapeMarkup(value));
}

std::string StateOf(const RunReport& report) {
  const CommitManifest* const newest = report.newest();
  const std::string committed =
      newest == nullptr ? "no commit yet" : fmt::format("committed up to step {}", newest->step);
  if (report.running) return "running; " + committed;
  const std::optional<double> finished = NumberAt(report.result, {"steps"});
  if (finished && (newest == nullptr || static_cast<double>(newest->step) <= *finished)) {
    return fmt::format("finished after {:.0f} steps", *finished);
  }
  return newest == nullptr ? "ended before its first commit"
                           : fmt::format("stopped; {}", committed);
}

std::string Heading(const RunReport& report) {
  const Config& config = report.config;
  const std::filesystem::path folder = report.run.lexically_normal();
  const std::string name =
      (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  const RunMetrics& metrics = report.metrics;
  const CommitManifest* const newest = report.newest();
  std::string html = fmt::format("<h1>Run {}</h1>\n<dl>\n", EscapeMarkup(name));
  html += Fact("state", StateOf(report));
  html += Fact("folder", report.run.string());
  html += Fact("arm", config.model.arm);
  html += Fact("seed", std::to_string(config.seed));
  html += Fact("data", fmt::format("{}: trained from {} to {}, evaluated from {} to {}",
                                   config.data.raw, config.data.train_from, config.data.train_until,
                                   config.data.eval_from, config.data.eval_until));
  if (metrics.lines > 0) {
    std::string steps = fmt::format("{} to {} in {} lines of metrics.jsonl", metrics.first_step,
                                    metrics.last_step, metrics.lines);
    if (metrics.restarts > 0) {
      steps +=
          fmt::format("; went on from a commit {} time{}: of what was done twice the later counts",
                      metrics.restarts, metrics.restarts == 1 ? "" : "s");
    }
    html += Fact("steps", steps);
  }
  if (newest != nullptr) {
    html += Fact("impressions", fmt::format("{} up to step {}", newest->samples, newest->step));
  }
  return html + Fact("report of", TimeText(absl::ToUnixSeconds(absl::Now())) + " UTC") + "</dl>\n";
}

// Whether a bucket is of new or long-tail items: by what its predicate bounds from above.
bool IsOfNewItems(const Config& config, const std::string& bucket) {
  const auto found = config.eval.buckets.find(bucket);
  if (found == config.eval.buckets.end()) return false;
  for (const char* bound : {"age_days <", "train_exposures <", "prior_count <", "content_seen == 0",
                            "train_exposures == 0", "prior_count == 0"}) {
    if (found->second.find(bound) != std::string::npos) return true;
  }
  return false;
}

std::string ResultTable(const Json& cells, const Config& config, bool* flagged) {
  std::vector<std::pair<std::string, const Json*>> rows;
  for (const auto& [bucket, cell] : cells.items()) rows.emplace_back(bucket, &cell);
  std::stable_partition(rows.begin(), rows.end(),
                        [&](const auto& row) { return IsOfNewItems(config, row.first); });
  std::string html = "<div class=\"wide\"><table>\n" + HeaderRow({{"bucket", kOfText},
                                                                  {"AUC"},
                                                                  {"GAUC"},
                                                                  {"log loss"},
                                                                  {"NE"},
                                                                  {"PCOC"},
                                                                  {"ECE"},
                                                                  {"impressions"},
                                                                  {"positives"},
                                                                  {"which", kOfText}});
  for (const auto& row : rows) {
    const std::string& bucket = row.first;
    const Json* const cell = row.second;
    const Json* const flag = At(*cell, {"flagged"});
    const bool few = flag != nullptr && flag->is_boolean() && flag->get<bool>();
    *flagged = *flagged || few;
    const auto points = [&](const char* key) {
      std::optional<double> share = NumberAt(*cell, {key});
      if (share) *share *= 100;
      return share;
    };
    const auto predicate = config.eval.buckets.find(bucket);
    html += "<tr>" + TextCell(bucket + (few ? " *" : "")) + NumberCell(points("auc"), 2) +
            NumberCell(points("gauc"), 2);
    for (const char* key : {"logloss", "ne", "pcoc", "ece"}) {
      html += NumberCell(NumberAt(*cell, {key}), 4);
    }
    html += NumberCell(NumberAt(*cell, {"n"}), 0) + NumberCell(NumberAt(*cell, {"positives"}), 0) +
            TextCell(predicate == config.eval.buckets.end() ? "" : predicate->second) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string ResultSection(const RunReport& report) {
  std::string html = "<h2>Result</h2>\n";
  const Json* const ctr = At(report.result, {"eval", "ctr"});
  if (ctr == nullptr || !ctr->is_object()) {
    return html +
           "<p class=\"note\">There is no result yet: result.json is written at the end of a "
           "run. Until then: savior evaluate.</p>\n";
  }
  bool flagged = false;
  html += "<h3>Clicks</h3>\n" + ResultTable(*ctr, report.config, &flagged);
  const Json* const ctcvr = At(report.result, {"eval", "ctcvr"});
  if (ctcvr != nullptr && ctcvr->is_object()) {
    html += "<h3>Clicks with conversion</h3>\n" + ResultTable(*ctcvr, report.config, &flagged);
  }
  html += "<p class=\"note\">AUC and GAUC in points (x 100). New and long-tail items first.";
  if (report.config.eval.progressive) {
    html += " Progressive: every batch of training was scored before it was learnt from.";
  }
  if (flagged) html += " * Fewer than 200 positives: mostly noise.";
  html += "</p>\n<dl>\n";
  const auto cost = [&](const char* name, const char* key, const char* unit, int digits) {
    if (const std::optional<double> value = NumberAt(report.result, {"train", key})) {
      html += Fact(name, fmt::format("{:.{}f}{}", *value, digits, unit));
    }
  };
  cost("impressions trained on", "samples", "", 0);
  cost("wall time", "wall_s", " s", 1);
  cost("CPU time, all processes", "cpu_s", " s", 1);
  cost("impressions per CPU-second", "samples_per_cpu_s", "", 0);
  if (const auto peak = NumberAt(report.result, {"train", "peak_rss_bytes"})) {
    html += Fact("peak memory, lead worker", SizeText(static_cast<uint64_t>(std::max(0.0, *peak))));
  }
  return html + "</dl>\n";
}

std::string MarkLegend(const std::vector<PlotMark>& marks) {
  std::string html;
  for (const auto& [kind, meaning] :
       std::vector<std::pair<std::string, std::string>>{{"switch", "another codebook in use"},
                                                        {"rollback", "rolled back to here"},
                                                        {"abort", "a refresh was given up"}}) {
    if (std::ranges::find(marks, kind, &PlotMark::kind) == marks.end()) continue;
    html += fmt::format("<li><i class=\"key-{}\"></i>{}</li>", kind, meaning);
  }
  return html.empty() ? "" : "<ul class=\"legend\">" + html + "</ul>\n";
}

std::string PlotSections(const RunReport& report) {
  const std::vector<PlotSection> sections = PlotsOf(report);
  if (sections.empty()) {
    return "<h2>Over the steps</h2>\n<p class=\"note\">There are no metrics yet: metrics.jsonl "
           "gets a "
           "line every train.metrics_every_s seconds.</p>\n";
  }
  std::string html;
  for (const PlotSection& section : sections) {
    html += fmt::format("<h2>{}</h2>\n", EscapeMarkup(section.title));
    if (!section.note.empty()) {
      html += fmt::format("<p class=\"note\">{}</p>\n", EscapeMarkup(section.note));
    }
    html += MarkLegend(section.plots[0].marks) + "<div class=\"plots\">\n";
    for (const LinePlot& plot : section.plots) {
      html += fmt::format("<figure><figcaption>{}</figcaption>\n", EscapeMarkup(plot.title)) +
              DrawLegend(plot) + DrawPlot(plot) + "</figure>\n";
    }
    html += "</div>\n";
  }
  return html +
         "<p class=\"note\">Lines are means of equal ranges of steps; shaded: from the least "
         "to the largest value of each range.</p>\n";
}

std::string CommitSection(const RunReport& report) {
  std::string html = "<h2>Commits</h2>\n";
  if (report.commits.empty()) return html + "<p class=\"note\">There is none yet.</p>\n";
  html += "<div class=\"wide\"><table>\n" + HeaderRow({{"commit", kOfText},
                                                       {"step"},
                                                       {"impressions"},
                                                       {"shards"},
                                                       {"codebook", kOfText},
                                                       {"size", kOfText}});
  for (const ReportedCommit& commit : report.commits) {
    html += "<tr>" + TextCell(commit.folder.filename().string());
    if (commit.manifest) {
      const CommitManifest& m = *commit.manifest;
      uint64_t bytes = 0;
      for (const SealedFile& file : m.files) bytes += file.bytes;
      const std::string version =
          fmt::format("{}{}", m.codebook.version, m.codebook.probation ? ", on probation" : "");
      html += NumberCell(static_cast<double>(m.step), 0) +
              NumberCell(static_cast<double>(m.samples), 0) +
              NumberCell(static_cast<double>(m.shards), 0) + TextCell(version) +
              TextCell(SizeText(bytes));
    } else {
      html += fmt::format("<td colspan=\"5\" class=\"long\">{}</td>", EscapeMarkup(commit.damage));
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string TextCell(std::string_view text) {
  const bool is_long = text.size() > 40;
  return fmt::format("<td{}>{}</td>", is_long ? " class=\"long\"" : "", EscapeMarkup(text));
}

std::string NumberCell(std::optional<double> value, int digits) {
  const bool there = value && std::isfinite(*value);
  return fmt::format("<td class=\"n\">{}</td>",
                     there ? fmt::format("{:.{}f}", *value, digits) : kMissing);
}

std::string HeaderRow(std::initializer_list<Column> columns) {
  std::string html = "<tr>";
  for (const Column& column : columns) {
    html +=
        fmt::format("<th{}>{}</th>", column.text ? "" : " class=\"n\"", EscapeMarkup(column.title));
  }
  return html + "</tr>\n";
}

std::string TimeText(std::optional<int64_t> seconds) {
  if (!seconds) return "";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(*seconds),
                          absl::UTCTimeZone());
}

std::string ReportPage(const RunReport& report) {
  const std::string title = fmt::format("savior: {}", report.run.string());
  return fmt::format(
             "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
             "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
             "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n",
             EscapeMarkup(title), kReportStyle) +
         Heading(report) + ResultSection(report) + PlotSections(report) + CodebookSection(report) +
         CommitSection(report) + "</body>\n</html>\n";
}

}  // namespace savior
