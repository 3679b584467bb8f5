// `savior report`: a run's report as an HTML file (launcher/report_page.h).
#pragma once

#include <CLI/CLI.hpp>
#include <ostream>
#include <string>

#include "common/status.h"

namespace savior {

struct ReportArguments {
  std::string run;
  std::string out;  // empty: <run>/report.html
};

void AddReport(CLI::App& app, ReportArguments& arguments);

// Writes the file atomically, and prints where it is. Errors: ReadRunReport's; that it cannot be
// written.
[[nodiscard]] absl::Status WriteReport(const ReportArguments& arguments, std::ostream& out);

}  // namespace savior
