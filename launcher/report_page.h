// A run's report as one HTML file: tables, and plots as inline SVG. No script, nothing from
// elsewhere; light or dark as the reader's system is, and light on paper. Well-formed XML, too.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "launcher/run_report.h"

namespace savior {

std::string ReportPage(const RunReport& report);

// The part about the codebook: its versions, and what was measured around each switch.
std::string CodebookSection(const RunReport& report);

// Pieces of pages. What is text is escaped; of a missing value, and one that is not finite, a dash.
std::string TextCell(std::string_view text);
std::string NumberCell(std::optional<double> value, int digits);
// Titles of columns: of text, as TextCell is, or of numbers.
struct Column {
  std::string_view title;
  bool text = false;
};
inline constexpr bool kOfText = true;
std::string HeaderRow(std::initializer_list<Column> columns);
// "2026-11-26 12:59:33"; unix seconds, UTC.
std::string TimeText(std::optional<int64_t> seconds);

}  // namespace savior
