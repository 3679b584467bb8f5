// The part of a report about the codebook: its versions, and what was measured around each switch.

#include <fmt/format.h>

#include <algorithm>

#include "common/markup.h"
#include "launcher/report_page.h"

namespace savior {
namespace {

using Fate = CodebookRefresh::Fate;

std::string StepCell(std::optional<int64_t> step) {
  return NumberCell(step ? std::optional<double>(static_cast<double>(*step)) : std::nullopt, 0);
}

std::string VersionRows(const RefreshHistory& history) {
  std::string html = "<tr>" + TextCell("0") + TextCell(NameOf(history.first)) + StepCell(0) +
                     TextCell("the run's first") + TextCell("") + "</tr>\n";
  for (const CodebookRefresh& refresh : history.refreshes) {
    html += "<tr>" + TextCell(std::to_string(refresh.version)) + TextCell(NameOf(refresh.fate)) +
            StepCell(refresh.switched) + TextCell(refresh.why.empty() ? "not known" : refresh.why) +
            TextCell(refresh.why_not) + "</tr>\n";
  }
  return html;
}

// Before, after, and the difference.
std::string Compared(std::string_view name, std::optional<double> before,
                     std::optional<double> after, int digits) {
  std::string difference;
  if (before && after) difference = fmt::format("{:+.{}f}", *after - *before, digits);
  return "<tr>" + TextCell(name) + NumberCell(before, digits) + NumberCell(after, digits) +
         fmt::format("<td class=\"n\">{}</td></tr>\n", difference);
}

// "progressive.new.auc" -> "click AUC before learning, bucket new".
std::string TitleOf(std::string_view name) {
  if (name == "loss_ctr") return "click loss (mean over some 100 steps)";
  if (name == "loss_ctcvr") return "loss of click with conversion (mean over some 100 steps)";
  if (name == "samples_per_s") return "impressions per second";
  const size_t first = name.find('.'), last = name.rfind('.');
  const std::string_view figure = name.substr(last + 1);
  const std::string bucket(name.substr(first + 1, last - first - 1));
  return fmt::format("click {} before learning, {}", figure == "auc" ? "AUC" : "log loss",
                     bucket == "all" ? "all items" : "bucket " + bucket);
}

std::string WindowTable(const CodebookRefresh& refresh, const SwitchWindow* window,
                        const Config& config) {
  std::string html = "<div class=\"wide\"><table>\n" +
                     HeaderRow({{"figure", kOfText}, {"before"}, {"after"}, {"difference"}});
  if (window != nullptr) {
    for (const WindowFigure& figure : window->figures) {
      html += Compared(TitleOf(figure.name), figure.before, figure.after,
                       figure.name == "samples_per_s" ? 0 : 5);
    }
  }
  const RefreshOutcome& o = refresh.outcome;
  if (o.auc_before || o.auc_after) {
    html += Compared(fmt::format("click AUC of the last {:g} h of data, either codes (replay)",
                                 config.refresh.replay_hours),
                     o.auc_before, o.auc_after, 5);
  }
  if (o.rq_mse_before || o.rq_mse) {
    html += Compared("quantisation error (rq_mse)", o.rq_mse_before, o.rq_mse, 5);
  }
  if (o.preserved_r2) html += Compared("preserved R2", std::nullopt, o.preserved_r2, 4);
  return html + "</table></div>\n";
}

std::string LevelTable(const CodebookRefresh& refresh, const Config& config) {
  if (refresh.outcome.levels.empty()) return "";
  std::string html = "<div class=\"wide\"><table>\n" + HeaderRow({{"level", kOfText},
                                                                  {"churn %"},
                                                                  {"utilisation %"},
                                                                  {"perplexity"},
                                                                  {"dead codes"},
                                                                  {"largest share %"}});
  for (size_t l = 0; l < refresh.outcome.levels.size(); ++l) {
    const RefreshLevel& level = refresh.outcome.levels[l];
    html += "<tr>" + TextCell(std::to_string(l + 1)) + NumberCell(100 * level.churn, 2) +
            NumberCell(100 * Utilisation(level, config.codebook.codes), 1) +
            NumberCell(level.perplexity, 1) + NumberCell(level.dead, 0) +
            NumberCell(100 * level.largest_share, 1) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string StateTable(const CodebookRefresh& refresh) {
  std::string html = "<div class=\"wide\"><table>\n" + HeaderRow({{"state", kOfText},
                                                                  {"after step"},
                                                                  {"time (UTC)", kOfText},
                                                                  {"seconds since it began"},
                                                                  {"training stood still, ms"}});
  const std::optional<int64_t> began =
      refresh.events.empty() ? std::nullopt : refresh.events[0].time;
  for (const RefreshEvent& event : refresh.events) {
    std::optional<double> since;
    if (began && event.time) since = static_cast<double>(*event.time - *began);
    html += "<tr>" + TextCell(event.state) + StepCell(event.step) + TextCell(TimeText(event.time)) +
            NumberCell(since, 0) + NumberCell(event.stood_still_ms, 2) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string RefreshPart(const CodebookRefresh& refresh, const SwitchWindow* window,
                        const RunReport& report) {
  std::string title = fmt::format("Version {}: {}", refresh.version, NameOf(refresh.fate));
  if (refresh.switched) title += fmt::format(", switched after step {}", *refresh.switched);
  std::string html = fmt::format("<h3>{}</h3>\n", EscapeMarkup(title));
  if (!refresh.why.empty()) {
    html += fmt::format("<p class=\"note\">Why it began: {}</p>\n", EscapeMarkup(refresh.why));
  }
  if (!refresh.why_not.empty()) {
    html += fmt::format("<p class=\"note\">Why it was given up: {}</p>\n",
                        EscapeMarkup(refresh.why_not));
  }
  if (window != nullptr) {
    const bool none = window->lines_before == 0 && window->lines_after == 0;
    html += fmt::format(
        "<p class=\"note\">{}</p>\n",
        none ? "No line of metrics.jsonl lies near it."
             : fmt::format("Means over {} lines of metrics.jsonl in the {} steps "
                           "before the switch, and {} in those after it.",
                           window->lines_before, report.metrics.window_steps, window->lines_after));
  }
  return html + WindowTable(refresh, window, report.config) + LevelTable(refresh, report.config) +
         StateTable(refresh);
}

}  // namespace

std::string CodebookSection(const RunReport& report) {
  const RefreshHistory& history = report.refreshes;
  std::string html = "<h2>Codebook</h2>\n";
  if (history.refreshes.empty()) {
    html += "<p class=\"note\">It was never refreshed.</p>\n";
  } else {
    html += "<div class=\"wide\"><table>\n" +
            HeaderRow({{"version", kOfText},
                       {"state", kOfText},
                       {"in use after step"},
                       {"why it began", kOfText},
                       {"why it ended", kOfText}}) +
            VersionRows(history) + "</table></div>\n";
  }
  for (const std::string& why : history.refused) {
    html += fmt::format("<p class=\"note\">A request was refused: {}</p>\n", EscapeMarkup(why));
  }
  if (history.refreshes.empty()) return html;
  std::string switches, others;
  for (const CodebookRefresh& refresh : history.refreshes) {
    const auto window = std::ranges::find_if(report.metrics.windows, [&](const SwitchWindow& w) {
      return w.version == refresh.version && refresh.switched == w.step;
    });
    const bool there = window != report.metrics.windows.end();
    const bool switched = refresh.switched && refresh.fate != Fate::kInterrupted;
    (switched ? switches : others) += RefreshPart(refresh, there ? &*window : nullptr, report);
  }
  if (!switches.empty()) html += "<h2>Around each switch</h2>\n" + switches;
  if (!others.empty()) html += "<h2>Refreshes that came to nothing</h2>\n" + others;
  return html;
}

}  // namespace savior
