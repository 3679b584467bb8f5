// Processes that end with the one that started them, however early that ends.

#include "launcher/orphan.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace savior {
namespace {

// A grandchild of the test; its pipe ends when it does.
class Grandchild {
 public:
  // It calls DieWithParent before or after its parent, our child, has been killed.
  explicit Grandchild(bool parent_dies_first) {
    std::array<int, 2> life{}, go{};
    EXPECT_EQ(::pipe(life.data()), 0);
    EXPECT_EQ(::pipe(go.data()), 0);
    const pid_t parent = ::fork();
    if (parent == 0) {
      if (::fork() == 0) {
        ::close(life[0]);
        ::close(go[1]);
        char byte = 'r';
        if (parent_dies_first) [[maybe_unused]]
          const ssize_t n = ::read(go[0], &byte, 1);
        DieWithParent();
        if (!parent_dies_first) [[maybe_unused]]
          const ssize_t n = ::write(life[1], "r", 1);
        ::sleep(60);
        ::_exit(0);
      }
      ::sleep(60);
      ::_exit(0);
    }
    ::close(life[1]);
    ::close(go[0]);
    life_ = life[0];
    char byte = 0;
    if (!parent_dies_first) {
      EXPECT_EQ(::read(life_, &byte, 1), 1);  // it is ready
    }
    ::kill(parent, SIGKILL);
    ::waitpid(parent, nullptr, 0);
    ::close(go[1]);  // the read ends
  }
  ~Grandchild() { ::close(life_); }

  bool EndsWithin(int milliseconds) const {
    pollfd end{life_, POLLIN, 0};
    char byte = 0;
    return ::poll(&end, 1, milliseconds) == 1 && ::read(life_, &byte, 1) == 0;
  }

 private:
  int life_ = -1;
};

TEST(Orphan, DiesWithItsParent) {
  const Grandchild grandchild(/*parent_dies_first=*/false);
  EXPECT_TRUE(grandchild.EndsWithin(5000));
}

TEST(Orphan, DiesAtOnceIfItsParentIsGoneAlready) {
  const Grandchild grandchild(/*parent_dies_first=*/true);
  EXPECT_TRUE(grandchild.EndsWithin(5000));
}

}  // namespace
}  // namespace savior
