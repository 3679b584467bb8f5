#include "launcher/report_command.h"

#include <fmt/format.h>

#include <filesystem>

#include "common/files.h"
#include "launcher/inspect.h"
#include "launcher/report_page.h"
#include "launcher/run_report.h"

namespace savior {

void AddReport(CLI::App& app, ReportArguments& arguments) {
  CLI::App* report = app.add_subcommand(
      "report", "Draws a run: one HTML file with its result, metrics, refreshes and commits");
  report->footer(
      "Examples:\n"
      "  savior report runs/mine                     writes runs/mine/report.html\n"
      "  savior report runs/mine --out mine.html\n"
      "A running job may go on meanwhile. What it shows: docs/evaluation.md");
  report->add_option("run", arguments.run, "Run folder")->required();
  report->add_option("--out", arguments.out, "The file; <run>/report.html without it");
}

absl::Status WriteReport(const ReportArguments& arguments, std::ostream& out) {
  const std::filesystem::path run = arguments.run;
  const std::filesystem::path file =
      arguments.out.empty() ? run / "report.html" : std::filesystem::path(arguments.out);
  SAVIOR_ASSIGN_OR_RETURN(const RunReport report, ReadRunReport(run));
  const std::string page = ReportPage(report);
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(file, page));
  out << fmt::format("{} ({}): {} lines of metrics, {} refreshes, {} commits\n", file.string(),
                     SizeText(page.size()), report.metrics.lines, report.refreshes.refreshes.size(),
                     report.commits.size());
  return absl::OkStatus();
}

}  // namespace savior
