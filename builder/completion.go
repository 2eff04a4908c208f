package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// completionCommand is `rempart completion`.
func completionCommand() *command {
	return &command{
		name:     "completion",
		synopsis: strings.Join(shellNames(), "|"),
		summary:  "print a script that lets a shell complete rempart's commands and options",
		help: `
For this session of bash or zsh:

    source <(rempart completion bash)
    source <(rempart completion zsh)

and for good:

    rempart completion bash > ~/.local/share/bash-completion/completions/rempart
    rempart completion zsh > ~/.zfunc/_rempart        # with fpath+=(~/.zfunc) before compinit in ~/.zshrc
    rempart completion fish > ~/.config/fish/completions/rempart.fish`,
		words: shellNames,
		setup: func(*pflag.FlagSet) func(context.Context, *console, []string) error {
			return func(_ context.Context, c *console, args []string) error {
				if len(args) != 1 {
					return usageError{"expected one of " + strings.Join(shellNames(), ", ")}
				}
				for _, s := range shells() {
					if s.name == args[0] {
						s.print(c.out, completions())
						return nil
					}
				}
				return usageError{fmt.Sprintf("no script for the shell %q; expected one of %s", args[0],
					strings.Join(shellNames(), ", "))}
			}
		},
	}
}

// shell is a shell that completes.
type shell struct {
	name  string
	print func(io.Writer, []completion)
}

func shells() []shell { return []shell{{"bash", printBash}, {"zsh", printZsh}, {"fish", printFish}} }

func shellNames() (names []string) {
	for _, s := range shells() {
		names = append(names, s.name)
	}
	return names
}

// valuesAnnotation marks an option that takes one of a few words.
const valuesAnnotation = "values"

// oneOf tells which words an option takes, for completion.
func oneOf[S ~string](flags *pflag.FlagSet, option string, words []S) {
	values := make([]string, len(words))
	for i, w := range words {
		values[i] = string(w)
	}
	if err := flags.SetAnnotation(option, valuesAnnotation, values); err != nil {
		panic(err) // the option is declared a line above, or it is a fault of this program
	}
}

// completion is what can follow one subcommand.
type completion struct {
	name, summary string
	words         []string // its arguments, beside files
	files         bool     // its arguments may be files
	options       []option
}

// option is one option of a subcommand.
type option struct {
	names  []string // "--output", "-o"
	usage  string
	takes  bool     // it takes a value
	values []string // that is one of these; a file where there are none
}

// completions are those of all subcommands.
func completions() []completion {
	var all []completion
	var names []string
	for _, cmd := range commands() {
		flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
		cmd.setup(flags)
		c := completion{name: cmd.name, summary: cmd.summary, files: cmd.files}
		if cmd.words != nil {
			c.words = cmd.words()
		}
		flags.VisitAll(func(f *pflag.Flag) {
			o := option{names: []string{"--" + f.Name}, usage: f.Usage, takes: f.NoOptDefVal == "",
				values: f.Annotations[valuesAnnotation]}
			if f.Shorthand != "" {
				o.names = append(o.names, "-"+f.Shorthand)
			}
			c.options = append(c.options, o)
		})
		c.options = append(c.options, option{names: []string{"--help", "-h"}, usage: "print the help of this command"})
		all = append(all, c)
		names = append(names, cmd.name)
	}
	return append(all, completion{name: "help", summary: "print the help of a command", words: names})
}

func names(all []completion) []string {
	var list []string
	for _, c := range all {
		list = append(list, c.name)
	}
	return list
}

func optionNames(c completion) []string {
	var list []string
	for _, o := range c.options {
		list = append(list, o.names...)
	}
	return list
}

// printBash and printZsh differ in how the shell tells what was typed and is told what may follow; the decisions in
// between are alike.
func printBash(w io.Writer, all []completion) {
	fmt.Fprint(w, `# bash completion for rempart, made by "rempart completion bash"
_rempart() {
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} choices="" files=""
	# bash takes --format=raw apart at the equals sign
	if [[ $current == "=" ]]; then current=""; elif [[ $before == "=" ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi
	if ((COMP_CWORD == 1)); then command=""; fi
`)
	printDecisions(w, all)
	fmt.Fprint(w, `	COMPREPLY=($(compgen -W "$choices" -- "$current"))
	if [[ -n $files ]]; then
		compopt -o filenames 2>/dev/null
		local line
		while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
	fi
}
complete -F _rempart rempart
`)
}

func printZsh(w io.Writer, all []completion) {
	fmt.Fprint(w, `#compdef rempart
# zsh completion for rempart, made by "rempart completion zsh"
_rempart() {
	local current=${words[CURRENT]} before=${words[CURRENT-1]} command=${words[2]} typed=$CURRENT choices="" files=""
	if [[ $current == --*=* ]]; then
		before=${current%%=*}
		compset -P '*='
		current=""
	fi
	if ((typed == 2)); then command=""; fi
`)
	printDecisions(w, all)
	fmt.Fprint(w, `	[[ -z $choices ]] || compadd -- ${=choices}
	[[ -z $files ]] || _files
}
if [[ ${funcstack[1]} == _rempart ]]; then _rempart "$@"; else compdef _rempart rempart; fi
`)
}

// printDecisions sets choices and files from command, before and current: what bash and zsh both understand.
func printDecisions(w io.Writer, all []completion) {
	fmt.Fprintf(w, "\tcase $command in\n\t\"\") choices=%q ;;\n",
		strings.Join(append(names(all), "--help", "--version"), " "))
	for _, c := range all {
		fmt.Fprintf(w, "\t%s)\n\t\tcase $before in\n", c.name)
		for _, o := range c.options {
			if !o.takes {
				continue
			}
			fmt.Fprintf(w, "\t\t%s) ", strings.Join(o.names, "|"))
			if len(o.values) > 0 {
				fmt.Fprintf(w, "choices=%q ;;\n", strings.Join(o.values, " "))
			} else {
				fmt.Fprint(w, "files=yes ;;\n")
			}
		}
		fmt.Fprintf(w, "\t\t*)\n\t\t\tcase $current in\n\t\t\t-*) choices=%q ;;\n\t\t\t*) choices=%q files=%s ;;\n"+
			"\t\t\tesac ;;\n\t\tesac ;;\n", strings.Join(optionNames(c), " "), strings.Join(c.words, " "),
			map[bool]string{true: "yes", false: `""`}[c.files])
	}
	fmt.Fprint(w, "\tesac\n")
}

func printFish(w io.Writer, all []completion) {
	fmt.Fprintf(w, "# fish completion for rempart, made by \"rempart completion fish\"\n"+
		"complete -c rempart -f\n"+
		"complete -c rempart -n __fish_use_subcommand -l help -d 'list the commands'\n"+
		"complete -c rempart -n __fish_use_subcommand -l version -d 'print the version'\n")
	for _, c := range all {
		fmt.Fprintf(w, "complete -c rempart -n __fish_use_subcommand -a %s -d %s\n", c.name, fishQuote(c.summary))
	}
	for _, c := range all {
		line := fmt.Sprintf("complete -c rempart -n '__fish_seen_subcommand_from %s'", c.name)
		if c.name != "help" {
			// An argument such as the name of another command must not bring that command's words.
			line = fmt.Sprintf("complete -c rempart "+
				"-n '__fish_seen_subcommand_from %s; and not __fish_seen_subcommand_from help'",
				c.name)
		}
		if c.files {
			fmt.Fprintf(w, "%s -F\n", line)
		}
		if len(c.words) > 0 {
			fmt.Fprintf(w, "%s -a %s\n", line, fishQuote(strings.Join(c.words, " ")))
		}
		for _, o := range c.options {
			fmt.Fprint(w, line)
			for _, n := range o.names {
				if long, ok := strings.CutPrefix(n, "--"); ok {
					fmt.Fprintf(w, " -l %s", long)
				} else {
					fmt.Fprintf(w, " -s %s", strings.TrimPrefix(n, "-"))
				}
			}
			switch {
			case len(o.values) > 0:
				fmt.Fprintf(w, " -x -a %s", fishQuote(strings.Join(o.values, " ")))
			case o.takes:
				fmt.Fprint(w, " -r -F")
			}
			fmt.Fprintf(w, " -d %s\n", fishQuote(o.usage))
		}
	}
}

// fishQuote puts a word between single quotes, in which fish knows two escapes.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
