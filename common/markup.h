// What HTML and SVG are written with: text that means itself, and numbers that stay short.
#pragma once

#include <string>
#include <string_view>

namespace savior {

// `text` between tags, or in a quoted attribute: &, <, >, " and ' are escaped. Control characters
// but tab and newline, which XML does not have, and bytes that are not UTF-8 become U+FFFD.
std::string EscapeMarkup(std::string_view text);

// <text x= y= `more`>`text`</text>, escaped; `more` (" class=\"...\"") as it is. SVG.
std::string SvgText(double x, double y, std::string_view text, std::string_view more = "");

}  // namespace savior
