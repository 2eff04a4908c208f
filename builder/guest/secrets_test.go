package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract/identity"
)

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	const consumer = identity.ConsumerWireGuard
	for _, tt := range []struct {
		given, command string
		want           string // part of the error; empty: the value is SECRET
	}{
		{consumer + "/wg0=" + file, "", ""},
		{"", consumer + "/wg0=printf %s SECRET", ""},
		{consumer + "=" + file, "", "want CONSUMER/NAME=SOURCE"},
		{"nobody/x=" + file, "", "want one of"},
		{consumer + "/x=" + file + ".not", "", "no such file"},
		{"", consumer + "/x=echo SECRET; exit 3", "exit status 3"},
		{"", consumer + "/x=true", "it is empty"},
		{"", consumer + "/x=head -c 70000 /dev/zero", "more than 65536 bytes"},
	} {
		id := &identity.Identity{}
		var given, commands []string
		if tt.given != "" {
			given = append(given, tt.given)
		}
		if tt.command != "" {
			commands = append(commands, tt.command)
		}
		err := ReadSecrets(id, given)
		if err == nil {
			err = AskSecrets(t.Context(), id, commands)
		}
		got := fmt.Sprint(err)
		if tt.want == "" && (err != nil || string(id.Secret(consumer, "wg0")) != "SECRET") {
			t.Errorf("%+v: %q, %v; want SECRET", tt, id.Secret(consumer, "wg0"), err)
		}
		if !strings.Contains(got, tt.want) || tt.want != "" && strings.Contains(got, "SECRET") {
			t.Errorf("%+v: %s; want %q, and nothing of the secret", tt, got, tt.want)
		}
	}
}
