#include "serving/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/config.h"

namespace savior {
namespace {

using nlohmann::json;

// Builds the document while it counts. The library's own builder neither refuses a key that comes
// twice nor can be told to stop.
class Builder final : public nlohmann::json_sax<json> {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Refuse("the body is not JSON"); }  // no such thing in it

  bool start_object(std::size_t) override { return Open(json::object()); }
  bool start_array(std::size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& key) override {
    json& object = *open_.back();
    if (object.contains(key)) {
      return Refuse(fmt::format("the key {} is twice in one object", JsonString(Clip(key))));
    }
    // References to an object's values stay good while it grows (it is a map).
    slot_ = &object[key];
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: ..."
    std::string_view what = error.what();
    if (const size_t end = what.find("] "); end != std::string_view::npos)
      what.remove_prefix(end + 2);
    // It quotes what it read last, be it megabytes.
    return Refuse(
        fmt::format("the body is not JSON, at byte {}: {}", position, what.substr(0, 200)));
  }

  absl::StatusOr<json> Take() && {
    if (!refusal_.empty()) return absl::InvalidArgumentError(refusal_);
    return std::move(root_);
  }

 private:
  json* Place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool Add(json value) {
    if (++values_ > limits_.values) {
      return Refuse(fmt::format("the body has more than {} values", limits_.values));
    }
    Place(std::move(value));
    return true;
  }

  bool Open(json container) {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      return Refuse(fmt::format("lists and objects are nested more than {} deep", limits_.depth));
    }
    if (++containers_ > limits_.containers) {
      return Refuse(fmt::format("the body has more than {} lists and objects", limits_.containers));
    }
    // A list's own place may move when the list around it grows; that cannot happen while it is
    // open.
    open_.push_back(Place(std::move(container)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Refuse(std::string why) {
    refusal_ = std::move(why);
    return false;
  }

  const JsonLimits limits_;
  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;
  int64_t values_ = 0, containers_ = 0;
  std::string refusal_;
};

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text, const JsonLimits& limits) {
  if (text.empty()) return absl::InvalidArgumentError("the body is empty, must be a JSON object");
  // The library takes a zero byte for the end, and would not look behind it.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return absl::InvalidArgumentError(
        fmt::format("the body is not JSON, at byte {}: a zero byte", zero + 1));
  }
  Builder builder(limits);
  static_cast<void>(json::sax_parse(text, &builder));  // what it refuses, the builder has noted
  SAVIOR_ASSIGN_OR_RETURN(json document, std::move(builder).Take());
  if (!document.is_object()) return JsonError("the body", DescribeJson(document), "a JSON object");
  return document;
}

std::string DescribeJson(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "a list";
    case json::value_t::string:
      return "a string";
    case json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    default:
      return value.dump();
  }
}

std::string JsonString(std::string_view text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string Clip(std::string_view text) {
  constexpr size_t kLongest = 60;
  return text.size() <= kLongest ? std::string(text)
                                 : std::string(text.substr(0, kLongest)) + "...";
}

absl::Status JsonError(std::string_view path, std::string_view found, std::string_view wanted) {
  return absl::InvalidArgumentError(fmt::format("{}: {}, must be {}", path, found, wanted));
}

std::string JsonPath(std::string_view parent, std::string_view key) {
  return parent.empty() ? Clip(key) : fmt::format("{}.{}", parent, Clip(key));
}

std::string JsonPath(std::string_view parent, size_t index) {
  return fmt::format("{}[{}]", parent, index);
}

absl::StatusOr<uint64_t> ReadUnsigned(const json& value, std::string_view path,
                                      std::string_view wanted) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  // Built by hand rather than parsed, a positive number may be of the signed type.
  if (value.is_number_integer() && value.get<int64_t>() >= 0) return value.get<uint64_t>();
  return JsonError(path, DescribeJson(value), wanted);
}

absl::StatusOr<int64_t> ReadCount(const json& value, std::string_view path,
                                  std::string_view wanted) {
  SAVIOR_ASSIGN_OR_RETURN(const uint64_t number, ReadUnsigned(value, path, wanted));
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return JsonError(path, DescribeJson(value), fmt::format("{} below 2^63", wanted));
  }
  return static_cast<int64_t>(number);
}

absl::StatusOr<double> ReadNumber(const json& value, std::string_view path) {
  if (!value.is_number()) return JsonError(path, DescribeJson(value), "a number");
  return value.get<double>();
}

absl::StatusOr<std::string> ReadString(const json& value, std::string_view path) {
  if (!value.is_string()) return JsonError(path, DescribeJson(value), "a string");
  return value.get_ref<const std::string&>();
}

absl::StatusOr<std::vector<float>> ReadFloats(const json& value, std::string_view path) {
  SAVIOR_RETURN_IF_ERROR(CheckList(value, path, "numbers"));
  std::vector<float> floats;
  floats.reserve(value.size());
  for (const json& number : value) {
    // The path is written only when it is needed: vectors are most of a request.
    const double wide = number.is_number() ? number.get<double>() : HUGE_VAL;
    const float narrow =
        std::abs(wide) <= std::numeric_limits<float>::max() ? static_cast<float>(wide) : HUGE_VALF;
    if (!std::isfinite(narrow)) {
      return JsonError(JsonPath(path, floats.size()), DescribeJson(number),
                       "a number that float32 can hold");
    }
    floats.push_back(narrow);
  }
  return floats;
}

absl::Status CheckKeys(const json& value, std::string_view path,
                       const std::vector<std::string>& known) {
  if (!value.is_object()) return JsonError(path, DescribeJson(value), "an object");
  if (known.empty()) return absl::OkStatus();
  for (const auto& [key, ignored] : value.items()) {
    if (std::ranges::find(known, key) != known.end()) continue;
    const std::string word = key.substr(0, 60);  // an edit distance costs its length
    return absl::InvalidArgumentError(
        fmt::format("{}: no such key; nearest is {}", JsonPath(path, key), Nearest(word, known)));
  }
  return absl::OkStatus();
}

absl::Status CheckList(const json& value, std::string_view path, std::string_view of) {
  if (value.is_array()) return absl::OkStatus();
  return JsonError(path, DescribeJson(value), fmt::format("a list of {}", of));
}

}  // namespace savior
