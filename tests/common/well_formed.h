// Whether markup is well-formed, as far as our pages go: tags nest and end, attributes are quoted,
// text is escaped. Python's parsers look at whole reports (tests/cluster/report_test.py).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace savior {

// What is wrong first, with a bit of the text; "": nothing.
inline std::string WrongInMarkup(std::string_view text) {
  std::vector<std::string> open;
  const auto here = [&](const char* what, size_t at) {
    return std::string(what) + ": " + std::string(text.substr(at, 60));
  };
  if (text.starts_with("<!DOCTYPE html>")) text.remove_prefix(15);
  size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '&') {
      const size_t end = text.find(';', at);
      if (end == std::string_view::npos || end - at > 8) return here("a bare &", at);
    }
    if (c == '>') return here("a bare >", at);
    if (c != '<') {
      ++at;
      continue;
    }
    size_t end = at + 1;
    for (bool quoted = false; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return here("< in a tag", at);
    }
    if (end >= text.size()) return here("a tag without end", at);
    const std::string_view tag = text.substr(at + 1, end - at - 1);
    const std::string name(tag.substr(0, tag.find_first_of(" /\n", 1)));
    if (tag.starts_with('/')) {
      if (open.empty() || "/" + open.back() != name) return here("ends what is not open", at);
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(name);
    }
    at = end + 1;
    // A style sheet is no markup.
    if (name == "style") at = text.find("</style>", at);
  }
  return open.empty() ? "" : "never ends: " + open.back();
}

}  // namespace savior
