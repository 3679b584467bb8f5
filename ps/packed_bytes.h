// Little-endian numbers one after the other, as the rules' states are saved.
#pragma once

#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace savior {

static_assert(std::endian::native == std::endian::little, "the saved form is the one in RAM");

template <typename T>
requires std::is_arithmetic_v<T>
void AppendNumbers(std::span<const T> numbers, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(numbers.data()), numbers.size_bytes());
}

template <typename T>
requires std::is_arithmetic_v<T>
void AppendNumber(T number, std::string* bytes) {
  AppendNumbers(std::span<const T>(&number, 1), bytes);
}

// Takes the next numbers off the front of `*bytes`; false if there are too few.
template <typename T>
requires std::is_arithmetic_v<T>
[[nodiscard]] bool TakeNumbers(std::string_view* bytes, std::span<T> numbers) {
  if (bytes->size() < numbers.size_bytes()) return false;
  // An empty span's pointer may be null, which memcpy may not be given.
  if (!numbers.empty()) std::memcpy(numbers.data(), bytes->data(), numbers.size_bytes());
  bytes->remove_prefix(numbers.size_bytes());
  return true;
}

template <typename T>
requires std::is_arithmetic_v<T>
[[nodiscard]] bool TakeNumber(std::string_view* bytes, T* number) {
  return TakeNumbers(bytes, std::span<T>(number, 1));
}

}  // namespace savior
