#include "common/markup.h"

#include <fmt/format.h>

namespace savior {
namespace {

constexpr std::string_view kUnknown = "\xef\xbf\xbd";  // U+FFFD

// Bytes of the UTF-8 character that `text`, not empty, begins with; 0: it is none.
size_t CharacterBytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t bytes = lead < 0x80    ? 1
                       : lead < 0xc2  ? 0
                       : lead < 0xe0  ? 2
                       : lead < 0xf0  ? 3
                       : lead <= 0xf4 ? 4
                                      : 0;
  if (bytes == 0 || bytes > text.size()) return 0;
  uint32_t code = bytes == 1 ? lead : lead & (0xffU >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte & 0x3fU);
  }
  // Longer than need be, a surrogate, or beyond the last one.
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < kLeast[bytes] || surrogate || code > 0x10ffff ? 0 : bytes;
}

}  // namespace

std::string EscapeMarkup(std::string_view text) {
  std::string escaped;
  for (size_t bytes; !text.empty(); text.remove_prefix(bytes)) {
    bytes = CharacterBytes(text);
    const char c = text[0];
    if (bytes == 0) {
      escaped += kUnknown;
      bytes = 1;
    } else if (bytes > 1) {
      escaped += text.substr(0, bytes);
    } else if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (c == '\'') {
      escaped += "&#39;";
    } else if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f) {
      escaped += kUnknown;
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string SvgText(double x, double y, std::string_view text, std::string_view more) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, more,
                     EscapeMarkup(text));
}

}  // namespace savior
