#include "serving/json_cursor.h"

#include <absl/strings/ascii.h>
#include <glog/logging.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <system_error>

namespace savior {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Of a string that is being read: what stands for itself in ASCII.
bool IsPlain(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
}

std::string DescribeToken(std::string_view token) {
  const auto value = nlohmann::json::parse(token, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? "" : DescribeJson(value);
}

void AppendUtf8(uint32_t code, std::string* to) {
  const auto tail = [&](int shift) {
    to->push_back(static_cast<char>(0x80 | (code >> shift & 0x3f)));
  };
  if (code < 0x80) {
    to->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    to->push_back(static_cast<char>(0xc0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    to->push_back(static_cast<char>(0xe0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    to->push_back(static_cast<char>(0xf0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace

JsonCursor::JsonCursor(std::string_view text, const JsonLimits& limits)
    : at_(text.data()), end_(text.data() + text.size()), limits_(limits) {
  CHECK_LT(limits.depth, kDeepest);
  if (text.starts_with("\xef\xbb\xbf")) at_ += 3;  // a byte order mark, as ParseJsonObject does
}

void JsonCursor::SkipSpace() {
  while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
}

bool JsonCursor::Bad() {
  bad_ = true;
  at_ = end_;
  return false;
}

JsonCursor::Kind JsonCursor::kind() {
  SkipSpace();
  if (at_ == end_) return Kind::kOther;
  if (*at_ == '{') return Kind::kObject;
  if (*at_ == '[') return Kind::kList;
  if (*at_ == '"') return Kind::kString;
  return *at_ == '-' || IsDigit(*at_) ? Kind::kNumber : Kind::kOther;
}

std::string JsonCursor::Describe() {
  using nlohmann::json;
  switch (kind()) {
    case Kind::kObject:
      return DescribeJson(json::object());
    case Kind::kList:
      return DescribeJson(json::array());
    case Kind::kString:
      return DescribeJson("");
    default:
      break;
  }
  const char* end = at_;
  while (end != end_ && (absl::ascii_isalnum(static_cast<unsigned char>(*end)) || *end == '-' ||
                         *end == '+' || *end == '.')) {
    ++end;
  }
  return DescribeToken({at_, static_cast<size_t>(end - at_)});
}

std::string JsonCursor::Describe(const JsonNumber& number) { return DescribeToken(number.text); }

bool JsonCursor::Value() { return ++values_ <= limits_.values || Bad(); }

bool JsonCursor::Enter(char open) {
  SkipSpace();
  if (at_ == end_ || *at_ != open) return false;
  if (depth_ >= limits_.depth || ++containers_ > limits_.containers) return Bad();
  first_[static_cast<size_t>(++depth_)] = true;
  ++at_;
  return true;
}

bool JsonCursor::Next(char close) {
  SkipSpace();
  if (at_ == end_ || depth_ == 0) return Bad();
  bool& first = first_[static_cast<size_t>(depth_)];
  if (*at_ == close) {
    ++at_;
    --depth_;
    return false;
  }
  if (!first) {
    if (*at_ != ',') return Bad();
    ++at_;
  }
  first = false;
  return true;
}

bool JsonCursor::NextKey(std::string_view* key) {
  if (!Next('}')) return false;
  --values_;  // a key is no value
  if (!String(key)) return Bad();
  SkipSpace();
  if (at_ == end_ || *at_ != ':') return Bad();
  ++at_;
  return true;
}

bool JsonCursor::String(std::string_view* text) {
  SkipSpace();
  if (at_ == end_ || *at_ != '"') return false;
  if (!Value()) return false;
  const char* const begin = ++at_;
  while (at_ != end_ && IsPlain(*at_)) ++at_;
  if (at_ == end_) return Bad();
  if (*at_ != '"') {
    at_ = begin;
    return Escaped(text);
  }
  *text = {begin, static_cast<size_t>(at_ - begin)};
  ++at_;
  return true;
}

// A string with escapes or beyond ASCII, from behind its first quote on.
bool JsonCursor::Escaped(std::string_view* text) {
  decoded_.clear();
  while (at_ != end_ && *at_ != '"') {
    if (*at_ == '\\') {
      if (!Escape()) return Bad();
      continue;
    }
    const size_t bytes = CharacterBytes();
    if (bytes == 0) return Bad();
    decoded_.append(at_, bytes);
    at_ += bytes;
  }
  if (at_ == end_) return Bad();
  ++at_;
  *text = decoded_;
  return true;
}

size_t JsonCursor::CharacterBytes() const {
  const auto byte = [this](size_t i) {
    return at_ + i < end_ ? static_cast<unsigned char>(at_[i]) : static_cast<unsigned char>(0);
  };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 ? 1 : 0;
  const auto within = [&](size_t i, unsigned char least, unsigned char most) {
    return byte(i) >= least && byte(i) <= most;
  };
  // What would be shorter otherwise, surrogates, and what is beyond U+10FFFF is no UTF-8.
  if (lead >= 0xc2 && lead <= 0xdf) return within(1, 0x80, 0xbf) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const unsigned char least = lead == 0xe0 ? 0xa0 : 0x80, most = lead == 0xed ? 0x9f : 0xbf;
    return within(1, least, most) && within(2, 0x80, 0xbf) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const unsigned char least = lead == 0xf0 ? 0x90 : 0x80, most = lead == 0xf4 ? 0x8f : 0xbf;
    return within(1, least, most) && within(2, 0x80, 0xbf) && within(3, 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

bool JsonCursor::HexDigits(uint32_t* code) {
  if (end_ - at_ < 4) return false;
  const auto [end, error] = std::from_chars(at_, at_ + 4, *code, 16);
  if (error != std::errc() || end != at_ + 4) return false;
  at_ += 4;
  return true;
}

bool JsonCursor::Escape() {
  if (end_ - at_ < 2) return false;
  constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char letter = at_[1];
  at_ += 2;
  if (const size_t i = kLetters.find(letter); i != std::string_view::npos) {
    decoded_.push_back(kMeanings[i]);
    return true;
  }
  uint32_t code = 0;
  if (letter != 'u' || !HexDigits(&code) || (code >= 0xdc00 && code <= 0xdfff)) return false;
  if (code >= 0xd800 && code <= 0xdbff) {
    uint32_t low = 0;
    if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') return false;
    at_ += 2;
    if (!HexDigits(&low) || low < 0xdc00 || low > 0xdfff) return false;
    code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
  }
  AppendUtf8(code, &decoded_);
  return true;
}

// Behind the number at at_; null: it is none.
const char* JsonCursor::NumberEnd(bool* integer) const {
  const char* p = at_;
  const auto digits = [&] {
    const char* const begin = p;
    while (p != end_ && IsDigit(*p)) ++p;
    return p != begin;
  };
  if (*p == '-') ++p;
  const char* const first = p;
  if (!digits() || (*first == '0' && p - first > 1)) return nullptr;
  *integer = true;
  if (p != end_ && *p == '.') {
    *integer = false;
    ++p;
    if (!digits()) return nullptr;
  }
  if (p != end_ && (*p == 'e' || *p == 'E')) {
    *integer = false;
    ++p;
    if (p != end_ && (*p == '+' || *p == '-')) ++p;
    if (!digits()) return nullptr;
  }
  return p;
}

bool JsonCursor::Number(JsonNumber* number) {
  if (kind() != Kind::kNumber) return false;
  bool integer = false;
  const char* const end = NumberEnd(&integer);
  if (end == nullptr || !Value()) return Bad();
  *number = {.text = {at_, static_cast<size_t>(end - at_)}};
  if (integer && *at_ != '-') {
    number->is_unsigned = std::from_chars(at_, end, number->whole).ec == std::errc();
    number->value = static_cast<double>(number->whole);
  } else if (integer && end - at_ == 2 && at_[1] == '0') {
    number->is_unsigned = true;  // -0
  }
  if (!number->is_unsigned && std::from_chars(at_, end, number->value).ec != std::errc()) {
    // Too large, which is no number here, or so small that it is about zero.
    number->value = std::strtod(std::string(at_, end).c_str(), nullptr);
    if (!std::isfinite(number->value)) return Bad();
  }
  at_ = end;
  return true;
}

bool JsonCursor::Literal(std::string_view* text) {
  if (kind() != Kind::kOther) return false;
  for (const std::string_view literal : {"true", "false", "null"}) {
    if (!std::string_view(at_, static_cast<size_t>(end_ - at_)).starts_with(literal)) continue;
    at_ += literal.size();
    *text = literal;
    return Value();
  }
  return Bad();
}

bool JsonCursor::AtEnd() {
  SkipSpace();
  return !bad_ && depth_ == 0 && at_ == end_;
}

}  // namespace savior
