// Reads JSON from front to back where it lies: no tree is made, a value goes where the caller wants
// it.
//
//   JsonCursor at(text);
//   std::string_view key;
//   for (at.EnterObject(); at.NextKey(&key);) {
//     if (key == "user") at.Number(&number); else ...
//   }
//   if (!at.AtEnd()) return refusal;
//
// Takes what ParseJsonObject (serving/json_text.h) takes, but does not look for a key that comes
// twice, which is its caller's. It does not say what is wrong with what it does not take: bad()
// stays true from then on, everything else answers false, and ParseJsonObject says it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "serving/json_text.h"

namespace savior {

struct JsonNumber {
  double value = 0;
  // If it is written as an integer, is not negative and below 2^64: `whole` is it.
  bool is_unsigned = false;
  uint64_t whole = 0;
  std::string_view text = {};  // as it is written
};

// Single-threaded. `text` outlives it.
class JsonCursor {
 public:
  enum class Kind : uint8_t { kObject, kList, kString, kNumber, kOther };  // kOther: a literal

  explicit JsonCursor(std::string_view text, const JsonLimits& limits = {});

  // Of the value that comes next.
  Kind kind();
  // That value as DescribeJson says it; "" if it is not JSON. The cursor stays.
  std::string Describe();
  static std::string Describe(const JsonNumber& number);

  // Reads one value, or the beginning of one. False, and nothing read: it is of another kind (or
  // bad()).
  bool EnterObject() { return Enter('{'); }
  bool EnterList() { return Enter('['); }
  // `text` is good until the next string or key.
  bool String(std::string_view* text);
  bool Number(JsonNumber* number);
  // true, false or null.
  bool Literal(std::string_view* text);

  // In the object or list that was entered last: whether there is another member, whose value comes
  // next. False: it is closed.
  bool NextKey(std::string_view* key);
  bool NextElement() { return Next(']'); }

  // Everything is read and closed, and nothing is behind it.
  bool AtEnd();
  bool bad() const { return bad_; }

 private:
  static constexpr int kDeepest = 16;

  void SkipSpace();
  bool Enter(char open);
  bool Next(char close);
  bool Value();  // counts one
  bool Bad();
  bool Escaped(std::string_view* text);
  bool Escape();
  bool HexDigits(uint32_t* code);
  // Bytes of the UTF-8 character at at_; 0: none.
  size_t CharacterBytes() const;
  const char* NumberEnd(bool* integer) const;

  const char* at_;
  const char* const end_;
  const JsonLimits limits_;
  int64_t values_ = 0, containers_ = 0;
  int depth_ = 0;
  std::array<bool, kDeepest> first_ = {};  // [depth]: no member was read yet
  bool bad_ = false;
  std::string decoded_;
};

}  // namespace savior
